"""A program in the server's place: announces itself and waits, or misbehaves as its first argument says."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(manner: str, arguments: list[str]) -> None:
    """Behaves like ``manner``: good, deaf, broken or silent."""
    if manner == "broken":
        sys.exit("the folder is on fire")
    if manner == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if manner != "silent":
        path = Path(arguments[arguments.index("--announce") + 1])
        announcement = {
            "sdk_url": "http://127.0.0.1:1",
            "admin_url": "http://127.0.0.1:2",
            "pid": os.getpid(),
        }
        (path.parent / "admin_token").write_text("secret\n", encoding="utf-8")
        path.with_suffix(".new").write_text(json.dumps(announcement), encoding="utf-8")
        path.with_suffix(".new").replace(path)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

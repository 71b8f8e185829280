"""Where a running server is found, and the file that says so."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """The two ports and the process behind them."""

    sdk_url: str
    admin_url: str
    pid: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Put them into a file as JSON, all at once: whoever sees the file sees a ready server."""
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(self.to_dict()) + "\n")
        Path(name).replace(path)

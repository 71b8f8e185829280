"""The addresses of a running server, and the file that announces them."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of a server's two ports, and its process id."""

    sdk_url: str
    admin_url: str
    pid: int

    def to_dict(self) -> dict[str, object]:
        """Return plain values, for JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write them into a file as JSON, atomically: when the file exists, the server is ready."""
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(self.to_dict()) + "\n")
        Path(name).replace(path)

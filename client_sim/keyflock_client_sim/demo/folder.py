"""The demo's folder stores a demo's files, and belongs to one choice of options.

server/               the server's own data folder: SQLite, blobs, keys, log
version_0.safetensors the checkpoint that phones start from
demo.json             the choices that a later run over the same folder must share
summary.json, learning_curve.png   of the last run
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from keyflock_client_sim.training_setup.options import DemoError, DemoOptions

#: Another value of these would put held-out text into training, or another model under the old rounds.
_SHARED = ("data", "pretrain", "devices", "seed", "size")


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The folder of one demo."""

    path: Path
    #: Whether the folder is deleted after the run.
    is_temporary: bool

    @property
    def server(self) -> Path:
        """Return the server's data folder."""
        return self.path / "server"

    @property
    def checkpoint(self) -> Path:
        """Return the path of version 0."""
        return self.path / "version_0.safetensors"

    @property
    def summary(self) -> Path:
        """Return the path of the last run's JSON."""
        return self.path / "summary.json"

    def claim(self, options: DemoOptions) -> None:
        """Claim the folder for a demo with these options; an earlier demo's options must be the same.

        Raises:
            DemoError: it belongs to another demo, or is no demo's folder; the message says what differs.
        """
        wanted = {name: getattr(options, name) for name in _SHARED}
        note = self.path / "demo.json"
        if not note.exists():
            if any(self.path.iterdir()):
                raise DemoError(f"--keep {self.path} holds other things; name an empty or a new folder.")
            note.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(note.read_text(encoding="utf-8-sig"))
            differing = [name for name in _SHARED if found.get(name) != wanted[name]]
        except (ValueError, AttributeError):
            raise DemoError(f"{note} cannot be read; name another folder with --keep.") from None
        if differing:
            name = differing[0]
            raise DemoError(
                f"--keep {self.path} holds a demo with --{name} {found.get(name)}; go on with that, or name "
                "another folder."
            )


@contextmanager
def demo_folder(keep: Path | None) -> Iterator[DemoFolder]:
    """Yield the folder ``keep``, made when missing; or a temporary one that is deleted after the block.

    Raises:
        DemoError: it cannot be made.
    """
    if keep is None:
        with TemporaryDirectory(prefix="keyflock-demo-", ignore_cleanup_errors=True) as path:
            yield DemoFolder(Path(path), is_temporary=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--keep {keep} cannot be made: {error.strerror}.") from None
    yield DemoFolder(keep.resolve(), is_temporary=False)

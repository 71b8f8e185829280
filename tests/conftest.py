"""What tests of several layers share: servers, restored logging, and fast temporary files."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from tests.services.postgres import PostgresServer, installed_binaries
from tests.services.s3 import CREDENTIALS, S3Server

# How fast a machine draws examples depends on what else runs on it, so examples have no deadline.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - the kernel's own folder, used through tempfile
#: The tests' files take less than a tenth of it.
_MIN_MEMORY_BYTES: Final = 4 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Put temporary files into memory where there is room, and share compiled programs between processes.

    pytest's workers and the servers that tests start inherit both from the environment.
    """
    if "TMPDIR" not in os.environ and _has_memory_folder():
        os.environ["TMPDIR"] = str(_MEMORY_FOLDER)
        tempfile.tempdir = None  # pytest has asked for the old one already
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="keyflock-xla-")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def _has_memory_folder() -> bool:
    """Return whether there is a folder in memory that is writable and large, and may hold programs."""
    with contextlib.suppress(OSError, AttributeError):  # another system than Linux
        status = os.statvfs(_MEMORY_FOLDER)
        is_large = status.f_bavail * status.f_frsize >= _MIN_MEMORY_BYTES
        return is_large and not status.f_flag & os.ST_NOEXEC and os.access(_MEMORY_FOLDER, os.W_OK)
    return False


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restore the root logger, so that no handler with a closed stream is left to the next test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL server; a test that stops it starts it again."""
    binaries, to_remove = installed_binaries()
    with PostgresServer.folder() as folder:
        server = PostgresServer(folder, binaries)
        server.start()
        yield server
        server.stop()
    if to_remove is not None:
        shutil.rmtree(to_remove)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the URL of an empty database of this test's own."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_blobs_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty bucket of this test's own, and put the credentials into the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()

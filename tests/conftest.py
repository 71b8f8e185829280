"""What tests of several layers need: servers, logs left as they were, examples without a stopwatch."""

import logging
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.services.postgres import PostgresServer, installed_binaries
from tests.services.s3 import CREDENTIALS, S3Server

# How fast a machine draws examples, with others at work on it, says nothing of the code under test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that sets up logging, as commands do, leaves no handler with a closed stream to the next."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; whoever stops it starts it again."""
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
    """The URL of an empty database of this test's own."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_blobs_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket of this test's own; the credentials are in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()

"""A real PostgreSQL for tests, which are skipped where its programs are not installed."""

from pathlib import Path

import pytest

from keyflock_load_tests import postgres_server
from keyflock_load_tests.postgres_server import PASSWORD, PostgresError, PostgresServer

__all__ = ["PASSWORD", "PostgresError", "PostgresServer", "installed_binaries"]


def installed_binaries() -> tuple[Path, Path | None]:
    """Return the folder of PostgreSQL's programs, and a folder to remove afterwards."""
    try:
        return postgres_server.installed_binaries()
    except postgres_server.PostgresNotInstalled as missing:
        pytest.skip(str(missing))

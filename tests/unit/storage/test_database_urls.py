"""Database URLs: parsing, display without secrets, and the message for a missing driver."""

import sys
from pathlib import Path

import pytest

from keyflock_server.settings import Settings
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.urls import database_url, display_name

SECRET = "postgresql://ann:p%40ss@db.example:5433/keyflock?sslmode=require&password=again"


def test_postgresql_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(StorageError, match=r"pip install 'keyflock\[postgres\]'"):
        engine_for(SECRET)


def test_what_is_shown_of_a_url_holds_no_password_and_no_options() -> None:
    assert display_name(database_url(SECRET)) == "postgresql db.example:5433/keyflock"
    assert display_name(database_url("sqlite:////data/keyflock.sqlite3")) == "sqlite /data/keyflock.sqlite3"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_the_schemes_that_operators_write_mean_the_same(scheme: str) -> None:
    assert database_url(f"{scheme}://h/d").drivername == "postgresql+asyncpg"


def test_settings_show_no_url(tmp_path: Path) -> None:
    settings = Settings.read(
        {"data_dir": tmp_path}, {"KEYFLOCK_DATABASE": SECRET, "KEYFLOCK_BLOBS": "s3://b"}
    )

    assert settings.database == SECRET
    assert "p%40ss" not in repr(settings)

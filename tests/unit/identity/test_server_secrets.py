"""A seed decides a simulation's secrets; a server that a network can reach has no way to take one."""

import inspect
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyflock_server import bootstrap
from keyflock_server.bootstrap import build_server, build_socketless_server
from keyflock_server.data_folder import DataFolderError
from keyflock_server.identity.keys import ADMIN_TOKEN_FILE, OWNER_KEY_FILE, SIGNING_KEY_FILE, KeyFileError
from keyflock_server.identity.server_secrets import secrets_in, seeded_secrets
from keyflock_server.settings import Settings

pytestmark = pytest.mark.fault("F13")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET_FILES = (SIGNING_KEY_FILE, ADMIN_TOKEN_FILE, OWNER_KEY_FILE)


def test_a_seed_decides_every_secret_and_every_id() -> None:
    one, same, other = seeded_secrets(9), seeded_secrets(9), seeded_secrets(10)

    assert (one.keys, one.admin_token, one.owner_key) == (same.keys, same.admin_token, same.owner_key)
    assert [one.new_id() for _ in range(3)] == [same.new_id() for _ in range(3)]
    assert len({one.new_id() for _ in range(1_000)}) == 1_000
    secrets = [one.keys.current.secret, one.owner_key, bytes.fromhex(one.admin_token)]
    others = [other.keys.current.secret, other.owner_key, bytes.fromhex(other.admin_token)]
    assert len({*secrets, *others}) == 6


def test_the_ids_of_a_seed_are_the_same_in_every_release() -> None:
    # They name the phones of a simulation, so they decide its samples.
    secrets = seeded_secrets(9)

    assert secrets.new_id() == "473f76eafaba66ec7f113a72a6cc1cad"
    assert secrets.keys.current.id == "50168e1b"


def test_a_secret_shows_nothing_of_itself(tmp_path: Path) -> None:
    for secrets in (seeded_secrets(9), secrets_in(tmp_path)):
        assert secrets.admin_token not in repr(secrets)
        assert repr(secrets) == "ServerSecrets()"


def test_a_data_folders_secrets_are_random(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    one, again, other = secrets_in(tmp_path / "a"), secrets_in(tmp_path / "a"), secrets_in(tmp_path / "b")

    assert (one.keys, one.admin_token, one.owner_key) == (again.keys, again.admin_token, again.owner_key)
    assert one.new_id() != again.new_id()
    assert (one.keys, one.admin_token, one.owner_key) != (other.keys, other.admin_token, other.owner_key)


def test_nothing_that_makes_a_server_with_sockets_takes_a_seed_or_secrets() -> None:
    parameters = set(inspect.signature(build_server).parameters)

    assert parameters == {"settings", "clock", "attestation", "may_show"}
    assert not {one.name for one in fields(Settings) if "seed" in one.name or "secret" in one.name}
    # One function names seeded secrets, and its server has no sockets.
    source = inspect.getsource(bootstrap)
    assert (
        source.count("seeded_secrets(")
        == inspect.getsource(build_socketless_server).count("seeded_secrets(")
        == 1
    )


async def test_a_seeded_server_leaves_no_secret_behind_and_no_other_server_goes_on_with_its_folder(
    tmp_path: Path,
) -> None:
    seeded = build_socketless_server(tmp_path / "data", lambda: NOW, seed=9)
    await seeded.tick()
    await seeded.close()
    left_behind = [name for name in SECRET_FILES if (tmp_path / "data" / name).exists()]

    successor = build_socketless_server(tmp_path / "data", lambda: NOW)
    with pytest.raises(KeyFileError, match="another signing_key"):
        await successor.tick()
    await successor._coordinator.stop()  # it did not start, so closing it would leave its store open
    await successor.close()

    assert left_behind == []


async def test_a_seeded_server_takes_no_storage_that_another_may_use(tmp_path: Path) -> None:
    first = build_socketless_server(tmp_path / "used", lambda: NOW)
    await first.tick()
    await first.close()

    for options in (
        {"data_dir": tmp_path / "used"},
        {"data_dir": tmp_path / "new", "database": "postgresql://localhost/keyflock"},
        {"data_dir": tmp_path / "new", "blobs": f"file://{tmp_path}/blobs"},
    ):
        with pytest.raises(DataFolderError, match="seed"):
            build_socketless_server(options.pop("data_dir"), lambda: NOW, seed=9, **options)  # type: ignore[arg-type]  # it is the folder

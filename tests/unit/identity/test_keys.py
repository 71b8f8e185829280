"""The server's secrets: made once, kept for the server's user alone, never shown."""

import base64
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keyflock_server.identity.attestation import AcceptAll
from keyflock_server.identity.keys import (
    KeyFileError,
    SigningKeys,
    load_or_create_admin_token,
    load_or_create_owner_key,
    load_or_create_signing_keys,
)
from keyflock_server.protocol.messages import EnrolRequest


def test_secrets_are_made_once_and_found_again(tmp_path: Path) -> None:
    keys, token = load_or_create_signing_keys(tmp_path), load_or_create_admin_token(tmp_path)

    assert load_or_create_signing_keys(tmp_path) == keys
    assert load_or_create_admin_token(tmp_path) == token
    assert len(keys.current.secret) == 32
    assert len(token) >= 43


def test_secrets_belong_to_the_servers_user_alone(tmp_path: Path) -> None:
    load_or_create_signing_keys(tmp_path)
    load_or_create_admin_token(tmp_path)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {"signing_key": 0o600, "admin_token": 0o600}


SECRETS: dict[str, Callable[[Path], object]] = {
    "signing_key": load_or_create_signing_keys,
    "admin_token": load_or_create_admin_token,
    "owner_key": load_or_create_owner_key,
}
every_secret = pytest.mark.parametrize(("name", "load"), SECRETS.items(), ids=SECRETS.keys())


@pytest.mark.fault("D6")
@every_secret
@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001], ids=oct)
def test_a_secret_that_is_open_to_others_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, name: str, load: Callable[[Path], object], bit: int
) -> None:
    load(tmp_path)
    (tmp_path / name).chmod(0o600 | bit)

    with pytest.raises(KeyFileError, match=f"chmod 600 {tmp_path / name}$"):
        load(tmp_path)


@pytest.mark.fault("D6")
@every_secret
@pytest.mark.parametrize("mode", [0o600, 0o400], ids=oct)
def test_a_secret_that_is_closed_to_others_is_taken(
    tmp_path: Path, name: str, load: Callable[[Path], object], mode: int
) -> None:
    made = load(tmp_path)
    (tmp_path / name).chmod(mode)

    assert load(tmp_path) == made


def test_a_second_line_is_a_retired_key(tmp_path: Path) -> None:
    first = load_or_create_signing_keys(tmp_path).current
    path = tmp_path / "signing_key"

    path.write_text(base64.urlsafe_b64encode(bytes(32)).decode() + "\n" + path.read_text())
    rotated = load_or_create_signing_keys(tmp_path)

    assert rotated.current.secret == bytes(32)
    assert rotated.retired == (first,)


@pytest.mark.parametrize("text", ["short", "not base64url !", "AA" * 10, "\n"])
def test_a_spoilt_key_file_is_the_operators_fault_and_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "signing_key"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(KeyFileError) as caught:
        load_or_create_signing_keys(tmp_path)

    assert "signing_key" in str(caught.value)
    assert not text.strip() or text not in str(caught.value)


def test_a_key_does_not_show_its_secret() -> None:
    keys = SigningKeys.of(b"k" * 32)

    assert "kkkk" not in repr(keys)


def test_a_secret_for_another_purpose_is_another_secret() -> None:
    keys = SigningKeys.of(b"k" * 32)

    assert keys.derived("sampling") == SigningKeys.of(b"k" * 32).derived("sampling")
    assert len({keys.current.secret, keys.derived("sampling"), keys.derived("backups")}) == 3


async def test_accept_all_accepts_and_warns() -> None:
    request = EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US")

    await AcceptAll().verify(b"", request)

    assert AcceptAll().warning.startswith("attestation is off")

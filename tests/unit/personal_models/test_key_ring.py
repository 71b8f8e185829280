import codecs
from pathlib import Path

import pytest

from keyflock_server.identity.keys import KeyFileError
from keyflock_server.personal_models.encryption import DecryptionError, decrypt, encrypt
from keyflock_server.personal_models.key_ring import EncryptionKey, add_encryption_key, read_key_ring


def test_a_new_key_goes_on_top_and_older_ones_still_decrypt(tmp_path: Path) -> None:
    first = add_encryption_key(tmp_path / "keys")

    second = add_encryption_key(tmp_path / "keys")

    assert second.retired == (first.current,)
    assert second.current != first.current
    assert second.find(first.current.id) == first.current
    assert second.find("unknown") is None
    assert read_key_ring(tmp_path / "keys") == second


@pytest.mark.fault("D6")
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o644], ids=oct)
def test_only_its_owner_may_read_the_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    add_encryption_key(path)

    assert path.stat().st_mode & 0o077 == 0
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_key_ring(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no key"),
        ("short\n", "key 1: not base64url"),
        ("é\n", "not a text file"),
        ("YWJj\n", "key 1: not base64url of 32 bytes"),
        (f"{'A' * 43}\nYWJj\n", "key 2: not base64url of 32 bytes"),
        (f"{'ab' * 32}\n", "key 1: not base64url of 32 bytes"),
    ],
)
def test_a_file_that_holds_no_keys_is_left_as_it_is(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)

    with pytest.raises(KeyFileError, match=reason):
        add_encryption_key(path)

    assert path.read_text(encoding="utf-8") == content


@pytest.mark.fault("F7")
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    before = add_encryption_key(path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())

    assert read_key_ring(path).current == before.current
    assert add_encryption_key(path).retired == (before.current,)
    assert not path.read_bytes().startswith(codecs.BOM_UTF8)


def test_where_there_is_no_file_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="keyflock heads add-key"):
        read_key_ring(tmp_path / "none")


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(EncryptionKey.of(b"s" * 32))


def test_a_sealed_head_says_nothing_and_comes_back() -> None:
    key = EncryptionKey.of(bytes(range(32)))

    sealed = encrypt(key, "en\nowner", b"words that somebody typed")

    assert b"words" not in sealed
    assert encrypt(key, "en\nowner", b"words that somebody typed") != sealed
    assert decrypt(key, "en\nowner", sealed) == b"words that somebody typed"


def test_another_place_another_key_or_a_changed_byte_opens_nothing() -> None:
    key, other = EncryptionKey.of(bytes(range(32))), EncryptionKey.of(bytes(32))
    sealed = encrypt(key, "en\nowner", b"head")

    for attempt in (
        (key, "en\nanother", sealed),
        (other, "en\nowner", sealed),
        (key, "en\nowner", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (key, "en\nowner", sealed[:5]),
    ):
        with pytest.raises(DecryptionError):
            decrypt(*attempt)

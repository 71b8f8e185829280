from pathlib import Path

import pytest

from keyflock_server.settings import SettingsError
from keyflock_server.suggestions.blocked import may_show_from


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("damn", "damn"),
        ("  Damn\r", "damn"),
        ("wasn\u2019t", "wasn't"),
        ("cafe\u0301", "caf\u00e9"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_a_blocked_word_is_found_however_it_is_written(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "blocked"
    file.write_text(f"other\n\n{line}\n", encoding="utf-8")

    may_show = may_show_from(file)

    assert not may_show(word)
    assert may_show(word + "s")
    assert may_show("")


def test_without_a_file_every_word_may_be_shown() -> None:
    assert may_show_from(None)("damn")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    for name in ("missing", "binary"):
        with pytest.raises(SettingsError, match=name):
            may_show_from(tmp_path / name)

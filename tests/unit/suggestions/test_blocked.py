from pathlib import Path

import pytest

from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.tokenizer import tokenize
from keyflock_server.settings import SettingsError
from keyflock_server.suggestions.blocked import default_blocked_words, may_show_from


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


@pytest.mark.fault("F7")
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("\ufeffdamn\nother\n", encoding="utf-8")

    may_show = may_show_from(tmp_path / "blocked")

    assert (may_show("damn"), may_show("other"), may_show("good")) == (False, False, True)


@pytest.mark.fault("F7")
def test_without_a_file_the_coarse_words_of_the_default_vocabulary_are_not_shown() -> None:
    slurs = default_blocked_words()
    offered = set(public_vocabulary("en").words[4:])

    may_show = may_show_from(None)

    assert len(offered & (slurs.everywhere | slurs.in_english)) >= 15
    assert not any(may_show(word) or may_show(word.upper()) for word in slurs.everywhere | slurs.in_english)
    assert sum(may_show(word) for word in offered) > 9_900
    assert may_show("damn")


@pytest.mark.fault("F7")
def test_the_default_list_can_be_switched_off_and_a_file_is_blocked_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("damn\n", encoding="utf-8")
    slur = min(default_blocked_words().everywhere)

    assert may_show_from(None, with_defaults=False)(slur)
    assert not may_show_from(tmp_path / "blocked")(slur)
    assert not may_show_from(tmp_path / "blocked", with_defaults=False)("damn")


@pytest.mark.fault("F7")
def test_an_ordinary_word_of_another_language_is_blocked_in_english_alone(tmp_path: Path) -> None:
    ordinary = default_blocked_words().in_english
    may_show = may_show_from(None)

    in_swedish = may_show.in_language_of(public_vocabulary("sv", 1_000))
    in_english = may_show.in_language_of(public_vocabulary("en", 1_000))

    assert ordinary
    assert all(in_swedish(word) and not in_english(word) for word in ordinary)
    assert not in_swedish(min(default_blocked_words().everywhere))
    (tmp_path / "blocked").write_text(min(ordinary), encoding="utf-8")
    swedish_file = may_show_from(tmp_path / "blocked").in_language_of(public_vocabulary("sv", 1_000))
    assert not swedish_file(min(ordinary))


@pytest.mark.fault("F7")
def test_every_entry_of_the_built_in_list_is_one_word_as_it_is_typed() -> None:
    slurs = default_blocked_words()

    assert len(slurs.everywhere | slurs.in_english) < 150
    assert all(tokenize(word) == [word] for word in slurs.everywhere | slurs.in_english)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    for name in ("missing", "binary"):
        with pytest.raises(SettingsError, match=name):
            may_show_from(tmp_path / name)

import pytest

from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't STOP", ["don't", "stop"]),
        ("don\u2019t", ["don't"]),
        ("rock'n'roll o\u02bcclock", ["rock'n'roll", "o'clock"]),
        ("'quoted' words'", ["quoted", "words"]),
        ("well,that...was:close!", ["well", "that", "was", "close"]),
        ("cafe\u0301 NAÏVE", ["café", "naïve"]),
        ("c u 2nite b4 8", ["c", "u", "2nite", "b4", "8"]),
        ("at 10:30 on 12/03 pay 1,250.00 or 42", ["at", NUMBER, "on", NUMBER, "pay", NUMBER, "or", NUMBER]),
        ("22nd mp3", ["22nd", "mp3"]),
        ("see https://a.example/b?c=d now", ["see", MASKED, "now"]),
        ("www.a.example", [MASKED]),
        ("mail me.too+x@mail.example.org!", ["mail", MASKED]),
        ("<#> <DECIMAL> <EMAIL> <TIME> <URL> <DATE> <name>", [MASKED] * 7),
        ("a < b > c", ["a", "b", "c"]),
        ("\U0001f600 :-) !!", []),
        ("", []),
    ],
)
def test_text_becomes_the_words_of_a_suggestion_strip(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_a_hostile_run_of_digits_and_separators_takes_linear_time() -> None:
    text = "1." * 50_000 + "x"

    tokens = tokenize(text)

    assert len(tokens) <= 50_001

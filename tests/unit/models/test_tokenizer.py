import time

import pytest

from keyflock_models.text.tokenizer import MASKED, NUMBER, folded, has_letter, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't STOP", ["don't", "stop"]),
        ("don\u2019t", ["don't"]),
        ("rock'n'roll o\u02bcclock", ["rock'n'roll", "o'clock"]),
        ("'quoted' words'", ["quoted", "words"]),
        ("well,that...was:close!", ["well", "that", "was", "close"]),
        ("cafe\u0301 NAÏVE", ["café", "naïve"]),
        ("c u 2nite b4", ["c", "u", "2nite", "b4"]),
        ("at 10:30 on 12/03 pay 1,250.00 or 42", ["at", NUMBER, "on", NUMBER, "pay", NUMBER, "or", NUMBER]),
        ("22nd mp3", ["22nd", "mp3"]),
        ("10-year at 10:30pm 1.5kg", [NUMBER, "year", "at", NUMBER, "pm", NUMBER, "kg"]),
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


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    "text",
    [
        "11'",
        "'11'",
        "11\u2019",
        "12'30",
        "12' wide",
        "8",
        "\u0663",
        "\u096b\u096c'",
        "\u2167",
        "\u00bd",
        "11\u0301",
    ],
)
def test_a_number_is_no_word_in_any_quoting_or_script(text: str) -> None:
    assert [token for token in tokenize(text) if token != "wide"] == [NUMBER]


@pytest.mark.fault("F1")
@pytest.mark.parametrize("token", [NUMBER, MASKED])
def test_the_name_of_what_is_left_out_is_read_as_itself(token: str) -> None:
    assert tokenize(token) == tokenize(token.upper()) == [token]


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    "text",
    [
        "\ufe0f",
        "\u0301",
        "\u20dd",
        "3\ufe0f\u20e3",
        "#\ufe0f\u20e3",
        "\u2764\ufe0f",
        "\u2764\ufe0f\u200d\U0001f525",
        "\U0001f44d\U0001f3fd",
        "\U0001f469\U0001f3fd\u200d\U0001f4bb",
        "\U0001f1f8\U0001f1ec",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u2139\ufe0f",
        "\u200d\u200c",
        "\u3164",
        "\u0640",
        "'\u00b7\"",
    ],
)
def test_an_emoji_a_mark_or_an_invisible_character_alone_is_no_word(text: str) -> None:
    assert tokenize(text) == []
    assert tokenize(f"love you {text} all") == ["love", "you", "all"]


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    "word",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a non-joiner
        "\u0915\u094d\u200d\u0937",  # Hindi, with a joiner
        "\u09b0\u200c\u09cd\u09af\u09be\u09ac",  # Bengali, with a mark after the non-joiner
        "col\u00b7legi",
        '\u05e6\u05d4"\u05dc',  # a Hebrew abbreviation
    ],
)
def test_what_joins_the_letters_of_a_word_stays_inside_it(word: str) -> None:
    assert tokenize(word) == [word]
    assert tokenize(f"\u200c{word}\u200d, {word}") == [word, word]


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("İyi", "iyi"),
        ("Wei\u00df", "weiß"),
        ("GRO\u1e9e", "groß"),
        ("ΛΟΓΟΣ", "λόγος".replace("ό", "ο")),
        ("λόγοσ", "λόγος"),
        ("COL\u00b7LEGI", "col·legi"),
        ("co\u0140legi", "col·legi"),
        ("ארה\u05f4ב", 'ארה"ב'),
        ("צ\u05f3יפס", "צ'יפס"),
        ("здоров\u2019я", "здоров'я"),
        ("здоров\u02bcя", "здоров'я"),
        ("o\u02bbzbek", "o'zbek"),
        ("\u0643\u064e\u0644\u0650\u0645\u064e\u0629", "\u0643\u0644\u0645\u0629"),
        ("\u0634\u0640\u0640\u0643\u0631\u0627", "\u0634\u0643\u0631\u0627"),
        ("\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        ("fyr\u00adir", "fyrir"),
        ("\u200efoo\u200f", "foo"),
    ],
)
def test_spellings_of_one_word_become_one_token(text: str, word: str) -> None:
    assert tokenize(text) == [word]


def test_folding_a_prefix_and_reading_a_word_give_the_same_letters() -> None:
    assert folded("Co\u0140le") == "col·le"
    assert not has_letter("")


@pytest.mark.parametrize(
    "text",
    [
        "1." * 50_000 + "1x",
        "a." * 50_000,
        "a-" * 50_000 + "@",
        "l\u00b7" * 50_000,
        "<" * 50_000,
        "a\u200c" * 50_000,
    ],
    ids=["numbers", "dots", "address", "middle dots", "masks", "joiners"],
)
def test_a_hostile_text_takes_no_more_time_than_its_length(text: str) -> None:
    begin = time.process_time()

    tokenize(text)

    # It takes a fifth of a second; looking at the whole text from each of its characters takes minutes.
    assert time.process_time() - begin < 10

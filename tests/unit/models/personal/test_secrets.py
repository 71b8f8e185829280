"""Secrets are kept out of personal models, and ordinary words are not."""

import time
from collections import Counter

import pytest
from tests.unit.models.personal.planted_secrets import KINDS, planted_secrets

from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.typed_secrets import is_secret_word, words_without_secrets
from keyflock_models.personal.words import PersonalWords
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.tokenizer import MASKED
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

pytestmark = pytest.mark.fault("F2")

#: The words around the planted secrets are known, so that whatever is learned is a piece of a secret.
CARRIERS = ["my", "code", "is", "it", "ok", "use", "thanks", "the", "one", "pin"]
COUNT = 10_000


@pytest.fixture(scope="module")
def carriers() -> Vocabulary:
    return build_vocabulary(CARRIERS, [0.08] * len(CARRIERS), oov=0.1, eos=0.1)


def learned(vocabulary: Vocabulary, message: str) -> list[str]:
    """The words that typing a message twice makes."""
    own = PersonalWords(len(vocabulary))
    for _ in range(2):
        own.learn(vocabulary, message)
    return list(own.all())


def test_of_ten_thousand_secrets_of_twelve_kinds_at_most_one_in_a_hundred_is_learned(
    carriers: Vocabulary,
) -> None:
    typed, leaked = Counter[str](), Counter[str]()
    own = PersonalWords(len(carriers))
    for kind, message in planted_secrets(COUNT, seed=14):
        own.learn(carriers, message)
        typed[kind] += 1
        leaked[kind] += own.to_state() != PersonalWords(len(carriers)).to_state()
        own = PersonalWords(len(carriers))

    assert set(typed) == set(KINDS)
    assert len(KINDS) == 12
    assert leaked.total() <= COUNT // 100
    assert all(leaked[kind] <= 0.02 * typed[kind] for kind in KINDS), leaked


@pytest.mark.parametrize(
    "message",
    [
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "A7X9K2",
        "Hunter2Pass99",
        "my pin is '482913'",
        "my pin is \u2018482913\u2019",
        "my code is \uff14\uff18\uff12\uff19\uff11\uff13'",
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "550e8400-e29b-41d4-a716-446655440000",
        "9f86d081884c7d659a2feaa0c55ad015",
        "ann.o'neil@example.com",
        "https://example.com/reset?u=ann",
        "example.com/reset?u=ann",
        "4111-1111-1111-1111",
        "4111 1111 1111 1111",
        "VK7JG-NPHTM-C97JM-9MPGT-3V66T",
        "VK7JG NPHTM C97JM 9MPGT 3V66T",
        "G-482913",
        "+1.415.555.2671x123",
        "P@ssw0rd",
        "00:1A:2B:3C:4D:5E",
        "GIkOmrJYXvTq",
        "AKIASOFWSOZSQAOOPNPV",
        "sk_live_abcdefghijklmnopqrstuvwx",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
        "br18 0036 0305 0000 1000 9795 493c 1",
    ],
)
def test_nothing_of_a_secret_is_learned(carriers: Vocabulary, message: str) -> None:
    assert learned(carriers, message) == []


@pytest.mark.parametrize(
    "word",
    [
        "2nd",
        "mp3",
        "b4",
        "covid19",
        "l8r",
        "gr8",
        "2moro",
        "w00t",
        "ps5",
        "utf8",
        "ipv6",
        "amd64",
        "iphone15",
        "1080p",
    ],
)
def test_short_words_with_digits_are_words(carriers: Vocabulary, word: str) -> None:
    assert not is_secret_word(word)
    assert learned(carriers, word) == learned(carriers, word.capitalize()) == [word]


@pytest.mark.parametrize(
    ("message", "own"),
    [
        ("2nd mp3 b4 covid19", ["2nd", "mp3", "b4", "covid19"]),
        ("PS3 and MP3 player", ["ps3", "and", "mp3", "player"]),
        ("call 98765432 2nite b4 8pm", ["call", "2nite", "b4", "8pm"]),
        ("/etc/X11/xorg.conf", ["etc", "x11", "xorg", "conf"]),
        ("SARS-CoV-2 rock'n'roll", ["sars", "cov", "rock'n'roll"]),
        ("ok.then see u at home", ["ok", "then", "see", "u", "at", "home"]),
        ("getElementById OpenOffice YouTube", ["getelementbyid", "openoffice", "youtube"]),
        ("XMLHttpRequest USBStick MySQLWorkbench", ["xmlhttprequest", "usbstick", "mysqlworkbench"]),
        ("NVIDIA DNS lol OMG!!! haha", ["nvidia", "dns", "lol", "omg", "haha"]),
    ],
)
def test_ordinary_messages_keep_their_words(carriers: Vocabulary, message: str, own: list[str]) -> None:
    found = [
        word
        for word in words_without_secrets(message, carriers)
        if word[0] != "<" and word.strip("0123456789")
    ]

    assert found == own
    assert set(own) <= {*learned(carriers, message), *CARRIERS}


def test_a_known_word_may_have_a_number_in_capitals_too() -> None:
    covid = build_vocabulary(["covid", "xylo"], [0.5, 0.4], oov=0.1, eos=0.1)

    assert words_without_secrets("COVID19 XYLOP19 COVID194", covid) == ["covid19", MASKED, MASKED]


def test_no_word_of_the_vocabulary_is_a_secret() -> None:
    vocabulary = public_vocabulary("en")

    lost = [word for word in vocabulary.words[4:] if words_without_secrets(word, vocabulary) != [word]]

    assert lost == [word for word in lost if word.isdigit()]
    assert not any(map(is_secret_word, vocabulary.words))


def test_a_long_name_costs_no_more_than_its_length(carriers: Vocabulary) -> None:
    begin = time.process_time()

    words_without_secrets("1." * 200_000, carriers)

    assert time.process_time() - begin < 10


def test_the_history_has_a_gap_where_a_secret_was(carriers: Vocabulary) -> None:
    model = PersonalModel.new(carriers)
    for _ in range(3):
        model.learn("my pin is sk_live_4eC39HqLyjWDarjtT1zdp7dc ok", None)

    assert model.encode("my pin is sk_live_4eC39HqLyjWDarjtT1zdp7dc ok") == [4, 13, 6, 3, 8]
    assert sorted(model.history.counts()[0].tolist()) == [4, 6, 8, 13]

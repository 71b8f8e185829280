import numpy as np
import pytest

from keyflock_models.text.languages import SUPPORTED, supported_language
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.special_tokens import BOS, EOS, OOV, PAD, SPECIAL_TOKENS
from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError, build_vocabulary


def test_the_public_vocabulary_has_exactly_the_asked_size_and_begins_with_the_special_tokens() -> None:
    vocabulary = public_vocabulary("en", 10_000)

    assert len(vocabulary) == len(set(vocabulary.words)) == 10_000
    assert vocabulary.words[:8] == ("<pad>", "<s>", "</s>", "<oov>", "the", "to", "and", "of")


@pytest.mark.fault("F5")
@pytest.mark.parametrize("language", ["bn", "ca", "de", "el", "en", "fa", "fr", "he", "it", "tr", "ur"])
def test_every_public_word_is_what_the_tokenizer_makes_of_it(language: str) -> None:
    vocabulary = public_vocabulary(language)

    assert [word for word in vocabulary.words[4:] if tokenize(word) != [word]] == []
    assert vocabulary.is_displayable[4:].all()


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Weiß GROẞ Straße STRASSE HEISST heißt dass müssen Maße Masse"),
        ("de-CH", "weiss gross Strasse"),
        ("el", "λόγος ΛΟΓΟΣ πως ΚΑΛΗΜΕΡΑ"),
        (
            "fr",
            "C\u2019est j'ai qu'il n'est l'homme d'accord s'il m'a t'as aujourd'hui lorsqu'il jusqu'à d'une",
        ),
        ("it", "C\u2019è l'ho un'altra d'accordo dell'anno all'interno l'Italia po'"),
        ("ca", "L\u2019any d'un s'ha pel·lícula col·legi coŀlegi"),
        ("tr", "İyi ISPARTA Irak IŞIK KIZ İSTANBUL"),
        ("ro", "şi și ţară țară"),
        ("fa", "می\u200cشود می\u200cخواهم"),
        ("bn", "আল্লাহ্\u200c র\u200c্যাব"),
        ("hi", "क्या है"),
        ("he", 'צה"ל ארה״ב שָׁלוֹם'),
        ("ar", "كَلِمَة الله"),
        ("uk", "зв\u2019язку здоров\u02bcя п'ять"),
        ("nl", "zo\u2019n foto's"),
        ("en", "don\u2019t it's o'clock"),
        ("vi", "không"),
    ],
)
def test_common_words_are_known_however_they_are_written(language: str, text: str) -> None:
    vocabulary = public_vocabulary(language)

    tokens = tokenize(text)

    assert [token for token, one in zip(tokens, vocabulary.encode(tokens), strict=True) if one == OOV] == []


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de", ["weiss", "gross", "strasse"]),
        ("fr", ["c", "j", "l", "d", "n", "qu", "s", "m", "t"]),
        ("it", ["c", "l", "d"]),
        ("ca", ["l", "d", "s"]),
        ("tr", ["isparta"]),
        ("en", ["2", "10", "00th", "0000s"]),
    ],
)
def test_what_is_no_word_of_the_language_is_not_in_its_vocabulary(language: str, words: list[str]) -> None:
    assert set(words) & set(public_vocabulary(language).words) == set()


@pytest.mark.fault("F5")
def test_a_word_with_its_own_entry_is_not_taken_for_another() -> None:
    vocabulary = build_vocabulary(["sinir", "sınır", "kız"], [0.4, 0.3, 0.2], oov=0.1, eos=0.1)

    assert vocabulary.encode(["sinir", "sınır", "kiz", "kız"]) == [4, 5, 6, 6]


@pytest.mark.fault("F3")
def test_a_stored_entry_without_a_letter_is_never_displayable() -> None:
    vocabulary = build_vocabulary(["a", "2", "\ufe0f"], [0.4, 0.3, 0.2], oov=0.1, eos=0.1)

    assert vocabulary.is_displayable.tolist() == [False] * 4 + [True, False, False]


def test_public_words_go_by_falling_frequency_and_ties_by_the_alphabet() -> None:
    vocabulary = public_vocabulary("en", 10_000)

    order = list(zip(-vocabulary.log_frequencies[4:], vocabulary.words[4:], strict=True))
    assert order == sorted(order)


def test_a_smaller_public_vocabulary_is_the_beginning_of_a_larger_one() -> None:
    assert public_vocabulary("en", 500).words == public_vocabulary("en", 2_000).words[:500]


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("ja", "without spaces"),
        ("zh-Hant", "without spaces"),
        ("th", "without spaces"),
        ("ko", "parts of words"),
        ("sr", "Latin letters alone"),
        ("sr-Latn", "Latin letters alone"),
        ("hr", "'sh' is the nearest"),
        ("no", "'nb' is the nearest"),
        ("english", "no public word list for the language 'english'"),
        ("gl", "no public word list for the language 'gl'"),
        ("xx", "no public word list for the language 'xx'"),
        ("de_DE.UTF-8", "'de' may be meant"),
        ("de_DE", "'de' may be meant"),
        ("en-Latn-US", "'en' may be meant"),
        ("en-", "'en' may be meant"),
        ("en\n", "no public word list"),
        ("", "the language is empty"),
        (" ", "the language is empty"),
        ("ｅｎ", "no public word list"),
    ],
)
def test_a_language_that_is_not_supported_is_refused_with_the_reason(tag: str, reason: str) -> None:
    with pytest.raises(VocabularyError, match=reason) as raised:
        public_vocabulary(tag, 100)

    assert str(raised.value).endswith(f"; supported are {', '.join(SUPPORTED)}")
    assert "\n" not in str(raised.value)


def test_a_language_may_have_a_region() -> None:
    tags = [supported_language(tag) for tag in ("en", "EN-us", "pt-BR", "es-419", "fil-PH")]

    assert tags == ["en", "en-US", "pt-BR", "es-419", "fil-PH"]


@pytest.mark.parametrize("size", [0, 4])
def test_a_size_that_cannot_be_met_is_refused(size: int) -> None:
    with pytest.raises(VocabularyError, match="entries was asked for"):
        public_vocabulary("en", size)


def test_log_frequencies_are_those_of_a_distribution(toy_vocabulary: Vocabulary) -> None:
    shares = np.exp(toy_vocabulary.log_frequencies.astype(np.float64))

    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert shares[EOS] == pytest.approx(0.2, abs=1e-6)
    assert shares[OOV] == pytest.approx(0.08, abs=1e-6)
    assert shares[PAD] == shares[BOS] < 1e-8


def test_words_get_their_place_and_everything_else_becomes_oov(toy_vocabulary: Vocabulary) -> None:
    tokens = ["ag", "ah", "zebra", MASKED, NUMBER, "<pad>", "</s>"]

    assert toy_vocabulary.encode(tokens) == [4, 5, OOV, OOV, OOV, OOV, OOV]
    assert toy_vocabulary.decode([4, 5, EOS]) == ["ag", "ah", "</s>"]


def test_special_tokens_are_never_displayable(toy_vocabulary: Vocabulary) -> None:
    assert toy_vocabulary.is_displayable.tolist() == [False] * 4 + [True] * 60


def test_bytes_bring_back_the_same_vocabulary(toy_vocabulary: Vocabulary) -> None:
    again = Vocabulary.from_bytes(toy_vocabulary.to_bytes())

    assert again.words == toy_vocabulary.words
    assert again.digest == toy_vocabulary.digest
    assert np.array_equal(again.log_frequencies, toy_vocabulary.log_frequencies)


def test_the_digest_is_the_words_identity() -> None:
    one = build_vocabulary(["a", "b"], [0.6, 0.3], oov=0.1, eos=0.1)
    same_words = build_vocabulary(["a", "b"], [0.5, 0.4], oov=0.1, eos=0.1)
    other_order = build_vocabulary(["b", "a"], [0.6, 0.3], oov=0.1, eos=0.1)

    assert one.digest == same_words.digest != other_order.digest


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("a", "b"), "begins with"),
        (SPECIAL_TOKENS, "begins with"),
        ((*SPECIAL_TOKENS, "a", "a"), "appear twice"),
        ((*SPECIAL_TOKENS, ""), "empty"),
        ((*SPECIAL_TOKENS, "a\nb"), "line break"),
    ],
)
def test_words_that_cannot_be_a_vocabulary_are_refused(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(VocabularyError, match=reason):
        Vocabulary(words, np.zeros(len(words), np.float32))


def test_frequencies_that_are_not_one_finite_number_a_word_are_refused() -> None:
    words = (*SPECIAL_TOKENS, "a")

    for frequencies in (np.zeros(4, np.float32), np.full(5, np.nan, np.float32)):
        with pytest.raises(VocabularyError, match="finite log-frequencies"):
            Vocabulary(words, frequencies)


def test_bytes_that_are_no_vocabulary_are_refused_with_the_reason(toy_vocabulary: Vocabulary) -> None:
    with pytest.raises(VocabularyError, match="not a safetensors document"):
        Vocabulary.from_bytes(b"garbage")
    with pytest.raises(VocabularyError, match=r"vocabulary\.words"):
        Vocabulary.from_tensors({"vocabulary.words": np.zeros(3, np.float32)})
    tensors = toy_vocabulary.to_tensors() | {"vocabulary.words": np.array([0xFF, 0xFE], np.uint8)}
    with pytest.raises(VocabularyError, match="not UTF-8"):
        Vocabulary.from_tensors(tensors)

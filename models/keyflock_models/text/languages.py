"""The languages that a vocabulary can be built for, and why others cannot.

A language is supported if the tokenizer gives back the words of its public list, and 10,000 of them cover
most of what is written: docs/vocabulary.md has the figures, `make vocabulary` measures them.
"""

from typing import Final

from keyflock_models.text.vocabulary import VocabularyError

# fmt: off
SUPPORTED: Final = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hu",
    "id", "is", "it", "lt", "lv", "mk", "ms", "nb", "nl", "pl", "pt", "ro", "ru", "sh", "sk", "sl", "sv",
    "ta", "tr", "uk", "ur", "vi",
)
# fmt: on

_NO_SPACES: Final = "it is written without spaces between words, which the tokenizer needs"
_REFUSED: Final = {
    "ja": _NO_SPACES,
    "km": _NO_SPACES,
    "ko": "its public list counts parts of words, which are not what the tokenizer finds between spaces",
    "lo": _NO_SPACES,
    "my": _NO_SPACES,
    "th": _NO_SPACES,
    "yue": _NO_SPACES,
    "zh": _NO_SPACES,
    "sr": "its public list is in Latin letters alone, and so is that of sh: ask for sh if that is meant",
}
#: Codes whose language another code of the public lists means.
_MEANT: Final = {
    "bs": "sh",
    "hr": "sh",
    "in": "id",
    "iw": "he",
    "nn": "nb",
    "no": "nb",
    "tl": "fil",
}


def supported_language(tag: str) -> str:
    """Return the language of a tag such as ``de``, ``pt-BR`` or ``de-CH``, in the letters of BCP 47.

    A region is kept, since Switzerland spells without ß; whatever else a tag can say is refused.

    Raises:
        VocabularyError: no vocabulary can be built for it; the message says why and which are supported.
    """
    code, *rest = tag.split("-")
    language = code.lower()
    is_region = len(rest) == 1 and (
        (len(rest[0]) == 2 and rest[0].isalpha()) or (len(rest[0]) == 3 and rest[0].isdigit())
    )
    if not tag.isascii() or language not in SUPPORTED or (rest and not is_region):
        raise VocabularyError(f"{_reason(tag)}; supported are {', '.join(SUPPORTED)}")
    return "-".join([language, *(one.upper() for one in rest)])


def _reason(tag: str) -> str:
    code = tag.replace("_", "-").replace(".", "-").split("-")[0].lower()
    if not tag.strip():
        return "the language is empty"
    if code in _REFUSED:
        return f"the language {tag!r} has no vocabulary: {_REFUSED[code]}"
    if code in _MEANT:
        return f"the language {tag!r} has no list of its own; {_MEANT[code]!r} is the nearest"
    if code in SUPPORTED:
        return f"{tag!r} is no language code that can be used; {code!r} may be meant"
    return f"there is no public word list for the language {tag!r}"

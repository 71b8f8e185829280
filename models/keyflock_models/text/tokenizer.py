r"""The tokenizer: it splits text into words as a keyboard's suggestion strip shows them.

The policy:

* A word is a run of letters, marks and digits; apostrophes inside it are kept ("don't", "o'clock"), curly
  ones become straight, everything is lower-cased and composed (NFC).
* Punctuation, symbols and emoji are dropped: the strip offers words. The end of the message is the only
  boundary.
* Whole numbers of one digit stay words ("2" and "4" are words in text messages); longer numbers, prices,
  times and dates become NUMBER: what they say is private or arbitrary, so they are nothing to learn or to
  suggest.
* URLs, e-mail addresses and the masks of corpus authors (`<#>`, `<URL>`, `<name>`) become MASKED.

NUMBER and MASKED are in no vocabulary, so they are encoded as OOV: a gap that keeps its position in the
sentence and that is never suggested.
"""

import unicodedata
from typing import Final

import regex  # type: ignore[import-untyped]  # its wheel has no type information

MASKED: Final = "<masked>"
NUMBER: Final = "<number>"

_APOSTROPHES: Final = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\uff07`\u00b4", "'"))

# Possessive quantifiers (++, *+) never give back what they took: time is linear in the text, whatever the
# text is.
_TOKEN: Final = regex.compile(
    r"""
      (?P<masked> < (?:\#|[A-Za-z_]{1,32}) >
                | (?:https?://|www\.) \S++
                | [\w.+\-]++ @ [\w\-]++ (?:\.[\w\-]++)*+ )
    | (?P<number> \p{N}++ (?:[.,:/\-] \p{N}++)*+ (?![\p{L}\p{M}']) )
    | (?P<word>   [\p{L}\p{M}\p{N}]++ (?:' [\p{L}\p{M}\p{N}]++)*+ )
    """,
    regex.VERBOSE | regex.VERSION1,
)


def folded(text: str) -> str:
    """Return the text in the letters of words: lower case, composed, with straight apostrophes."""
    # Lower-casing can decompose a letter (the Turkish capital İ), so composing comes last.
    return unicodedata.normalize("NFC", text.translate(_APOSTROPHES).lower())


def tokenize(text: str) -> list[str]:
    """Return the words of a message in order, with NUMBER and MASKED where something is left out.

    Guarantees:
        The result depends on the text alone. Every returned word w is a fixed point: `tokenize(w) == [w]`. No
        result is the name of a special token.
    Edge cases:
        no word in the text -> []
    """
    tokens = []
    for match in _TOKEN.finditer(folded(text)):
        token = match.group()
        if match.lastgroup == "masked":
            tokens.append(MASKED)
        elif match.lastgroup == "number" and len(token) > 1:
            tokens.append(NUMBER)
        else:
            tokens.append(token)
    return tokens

r"""The tokenizer: it splits text into words as a keyboard's suggestion strip shows them.

The policy:

* A word is a run of letters, marks and digits with at least one letter. Apostrophes inside it are kept
  ("don't", "o'clock"), as are joiners (Persian, Indic scripts), the Catalan middle dot between two l's and
  the Hebrew double quote of abbreviations. It is lower-cased and composed (NFC) with straight apostrophes.
* Characters that nobody sees are dropped, and so are the vowel points of Arabic and Hebrew and the tatweel,
  which may be written and rarely are.
* Punctuation, symbols and emoji are dropped: the strip offers words. The end of the message is the only
  boundary.
* Numbers, prices, times and dates become NUMBER, in any script and any quoting: what they say is private or
  arbitrary, so they are nothing to learn or to suggest.
* URLs, e-mail addresses and the masks of corpus authors (`<#>`, `<URL>`, `<name>`) become MASKED.

NUMBER and MASKED are in no vocabulary, so they are encoded as OOV: a gap that keeps its position in the
sentence and that is never suggested. docs/decisions/0043 says why.
"""

import unicodedata
from typing import Final

import regex  # type: ignore[import-untyped]  # its wheel has no type information

MASKED: Final = "<masked>"
NUMBER: Final = "<number>"

_REPLACED: Final = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02bb\u02bc\u02bd\u2032\u055a\u05f3\ua78b\ua78c\uff07`\u00b4", "'")
    # The Hebrew double quote; the middle dot of hyphenation; the Catalan l with its dot in one character.
    | {"\u05f4": '"', "\u2027": "\u00b7", "\u013f": "l\u00b7", "\u0140": "l\u00b7"}
)

_DROPPED: Final = regex.compile(
    # Invisible characters. The joiners and the zero-width space are left: the tokens below decide.
    r"[\p{Default_Ignorable_Code_Point}--[\u200b-\u200d]]"
    # The points and marks of Hebrew and Arabic, and the tatweel.
    r"|[\p{Mn}&&[\u0591-\u06ff\u0898-\u08ff]]|\u0640",
    regex.VERSION1,
)
#: The capital I with a dot becomes two characters in lower case, of which only Turkish capitals tell.
_DOTTED_I: Final = regex.compile("i\u0307+")

# Possessive quantifiers (++, *+) never give back what they took, and an address is looked for only where a
# run of its characters begins: time is linear in the text, whatever the text is.
_ADDRESS: Final = r"(?P<address> (?<![\w.+\-]) [\w.+\-]++ @ [\w\-]++ (?:\.[\w\-]++)*+ ) |"
_OTHERS: Final = r"""
      (?P<masked> < (?!number>) (?:\#|[a-z_]{1,32}) >
                | (?:https?://|www\.) \S++ )
    | (?P<number> <number>
                | \p{N}++ (?:[.,:/\-] \p{N}++)++ )
    | (?P<emoji>  [0-9\#*]\u20e3 | \u2139 )
    | (?P<word>   [\p{L}\p{N}] [\p{L}\p{Mn}\p{Mc}\p{N}]*+
                  (?: (?: '(?=[\p{L}\p{N}])
                        | (?<=l)\u00b7(?=l)
                        | (?<=\p{Script=Hebrew})"(?=\p{Script=Hebrew})
                        | [\u200c\u200d]++ (?=[\p{L}\p{Mn}\p{Mc}\p{N}]) )
                      [\p{L}\p{Mn}\p{Mc}\p{N}]*+ )*+ )
    """
_TOKEN: Final = regex.compile(_OTHERS, regex.VERBOSE | regex.VERSION1)
#: Slower, because every word might begin an address.
_TOKEN_OR_ADDRESS: Final = regex.compile(_ADDRESS + _OTHERS, regex.VERBOSE | regex.VERSION1)
_LETTER: Final = regex.compile(r"\p{L}", regex.VERSION1)


def folded(text: str) -> str:
    """Return the text in the letters of words: lower case, composed, with straight apostrophes."""
    if text.isascii():
        return text.replace("`", "'").lower()
    text = _DROPPED.sub("", unicodedata.normalize("NFC", text)).translate(_REPLACED).lower()
    # Dropping and lower-casing can leave a letter beside its mark, so composing comes last.
    return unicodedata.normalize("NFC", _DOTTED_I.sub("i", text))


def has_letter(token: str) -> bool:
    """Return whether the token has a letter, without which nothing is a word."""
    return token.isalpha() or _LETTER.search(token) is not None


def tokenize(text: str) -> list[str]:
    """Return the words of a message in order, with NUMBER and MASKED where something is left out.

    Guarantees:
        The result depends on the text alone. Every returned token t is a fixed point: `tokenize(t) == [t]`.
        Every token but NUMBER and MASKED has a letter. No result is the name of a special token.
    Edge cases:
        no word in the text -> []
    """
    tokens = []
    text = folded(text)
    for match in (_TOKEN_OR_ADDRESS if "@" in text else _TOKEN).finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "word":
            is_plain = token.isalpha() and token.isascii()
            tokens.append(token if is_plain else _finished(token))
        elif kind == "number":
            tokens.append(NUMBER)
        elif kind != "emoji":
            tokens.append(MASKED)
    return tokens


def _finished(word: str) -> str:
    """Return the word, or NUMBER where it has no letter.

    Lower-casing a whole text may have missed the sigma that ends a word.
    """
    if not has_letter(word):
        return NUMBER
    return word[:-1] + "\u03c2" if len(word) > 1 and word[-1] == "\u03c3" else word

"""Decides which texts may name a user as a secret: random ones of at least 128 bits, in one of two alphabets.

Anyone who knows a user's secret can read and delete that user's personal model, so a text that can be guessed
or looked up (an e-mail address, a telephone number, a person's name, words, a sequence, a UUID) is refused,
and so is a text in another alphabet. No test proves that a text is random; this one refuses what an app could
send by mistake. It cannot tell a hash of a name from a secret.
"""

import base64
import math
import re
from itertools import pairwise
from types import MappingProxyType
from typing import Final

#: The rule in words, for error messages and documents.
RULE: Final = (
    "at least 128 random bits, as 32 or more hexadecimal digits or as 22 or more base64url characters "
    "without padding"
)
_HEX: Final = re.compile(r"[0-9a-fA-F]{32,}")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{22,}")
#: A UUID has at most 122 random bits, and often identifies a device or an account.
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MIN_DISTINCT_HEX: Final = 8
_MIN_DISTINCT_BASE64URL: Final = 10
#: Above this share of neighbours that are equal or consecutive, a text counts as a sequence.
_SEQUENCE_RATIO: Final = 0.6
#: From this much evidence on, a text counts as written by a person. Fewer than one in 100,000 random texts of
#: 22 characters reach it, and fewer still of longer ones.
_WORDS_BITS: Final = 12.0
#: Frequency of letters in English text, in per cent.
_LETTERS: Final = MappingProxyType(
    {
        "a": 8.2,
        "b": 1.5,
        "c": 2.8,
        "d": 4.3,
        "e": 12.7,
        "f": 2.2,
        "g": 2.0,
        "h": 6.1,
        "i": 7.0,
        "j": 0.15,
        "k": 0.8,
        "l": 4.0,
        "m": 2.4,
        "n": 6.7,
        "o": 7.5,
        "p": 1.9,
        "q": 0.1,
        "r": 6.0,
        "s": 6.3,
        "t": 9.1,
        "u": 2.8,
        "v": 1.0,
        "w": 2.4,
        "x": 0.15,
        "y": 2.0,
        "z": 0.07,
    }
)
#: Frequency with which a kind of character follows another in names and phrases; kinds: ``a`` lower-case
#: letter, ``A`` capital, ``0`` digit, ``-`` separator.
_STEPS: Final = MappingProxyType(
    {
        "aa": 0.80,
        "aA": 0.08,
        "a0": 0.05,
        "a-": 0.07,
        "Aa": 0.65,
        "AA": 0.25,
        "A0": 0.05,
        "A-": 0.05,
        "0a": 0.10,
        "0A": 0.10,
        "00": 0.70,
        "0-": 0.10,
        "-a": 0.45,
        "-A": 0.35,
        "-0": 0.15,
        "--": 0.05,
    }
)
_BASE64URL_BITS: Final = 6.0
#: Size of a base64 group; a text with one character beyond whole groups is invalid.
_BASE64_GROUP: Final = 4


def is_secret(text: str) -> bool:
    """Return whether an app may name a user by ``text``.

    Guarantees:
        A text too short for 128 bits in its alphabet is refused.
    Edge cases:
        a random text that happens to look like words or a sequence -> False, at most once in 100,000; the
        app draws another
    """
    if _UUID.fullmatch(text) or _is_sequence(text) or _is_repeated(text) or _is_encoded_text(text):
        return False
    if _HEX.fullmatch(text):
        digits = text.lower()
        has_both = not digits.isdigit() and not digits.isalpha()
        return has_both and len(set(digits)) >= _MIN_DISTINCT_HEX
    if not _BASE64URL.fullmatch(text):
        return False
    has_both = text.lower() != text != text.upper()
    return has_both and len(set(text)) >= _MIN_DISTINCT_BASE64URL and _words_bits(text) < _WORDS_BITS


def _is_sequence(text: str) -> bool:
    near = sum(abs(ord(one) - ord(next_one)) <= 1 for one, next_one in pairwise(text))
    return near > _SEQUENCE_RATIO * max(1, len(text) - 1)


def _is_repeated(text: str) -> bool:
    return text in (text + text)[1:-1]


def _is_encoded_text(text: str) -> bool:
    """Return whether it is the hexadecimal or base64url form of readable text: an address, a name, a number.

    Fewer than one in 100,000 strings of 16 random bytes are such a text in UTF-8.
    """
    return any(_is_readable(data) for data in (_from_hex(text), _from_base64url(text)))


def _is_readable(data: bytes) -> bool:
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        return False
    return bool(decoded) and all(one.isprintable() or one.isspace() for one in decoded)


def _from_hex(text: str) -> bytes:
    return bytes.fromhex(text) if _HEX.fullmatch(text) and len(text) % 2 == 0 else b""


def _from_base64url(text: str) -> bytes:
    rest = len(text) % _BASE64_GROUP
    if rest == 1 or not _BASE64URL.fullmatch(text):
        return b""
    return base64.urlsafe_b64decode(text + "=" * (-rest % _BASE64_GROUP))


def _words_bits(text: str) -> float:
    """Return the bits of evidence for names and phrases, against a random text."""
    kinds = [_kind(one) for one in text]
    bits = sum(math.log2(_STEPS[one + next_one]) for one, next_one in pairwise(kinds))
    for one, kind in zip(text, kinds, strict=True):
        of_its_kind = {"0": 0.1, "-": 0.5}.get(kind) or _LETTERS[one.lower()] / 100.0
        bits += math.log2(of_its_kind) + _BASE64URL_BITS
    return bits


def _kind(one: str) -> str:
    if one.isdigit():
        return "0"
    if one.isalpha():
        return "a" if one.islower() else "A"
    return "-"

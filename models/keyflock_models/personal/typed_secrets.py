"""Secrets in what a user types: they are never learned, suggested or stored.

The rule is about how something is written, because nothing else is known of it:

* A **group** is a run of letters and digits. A group with both is a code if it is longer than such words are
  (`2nd`, `mp3`, `covid19`), changes between letters and digits too often, or has capitals inside.
* A **chunk** is what stands between white space. It is a secret as a whole if a group in it is a code, if it
  is an address (URL, domain, e-mail), or if its letters, digits and symbols alternate as in no word.
* Several chunks are one secret if they are the groups of one number or key: a card, an IBAN, a licence key.

A secret is left out as a whole, so that its pieces are not learned as words. What has digits and no letter is
no word anyway. A secret of plain lower-case letters (a pass phrase) cannot be told from words, and is learned
as they are. The measured errors of the rule are in docs/decisions/0044.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import regex  # type: ignore[import-untyped]  # its wheel has no type information

from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.tokenizer import tokenize
from keyflock_models.text.vocabulary import Vocabulary

#: The tokenizer reads this as one token, `MASKED`.
_MASK: Final = "<#>"

#: A secret has one of these in it; most texts have none, and are left as they are.
_SUSPICION: Final = re.compile(r"[\d@]|\w\.\w\w|:/|[^\W\d_]{16}|[a-z][A-Z]")
_DIGIT: Final = re.compile(r"\d")
_CHUNK: Final = re.compile(r"\S+")
_EDGES: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2026"
_GROUP: Final = regex.compile(r"[\p{L}\p{M}\p{N}]++")
_DIGITS_OR_LETTERS: Final = regex.compile(r"\p{N}++|[\p{L}\p{M}]++")
#: The words of a name in camel case, numbers with their points and dashes, and symbols.
_SEGMENT: Final = regex.compile(
    r"""
      \p{N}++(?:[.,:/\-]\p{N}++)*+
    | \p{Lu}?[\p{Ll}\p{Lo}\p{Lm}\p{M}]++
    | \p{Lu}++(?!\p{Ll})
    | \p{Lu}
    | [^\p{L}\p{M}\p{N}]++
    """,
    regex.VERBOSE,
)
#: The words of a name in camel case, where capitals may stand before one (`XMLHttpRequest`).
_CAMEL: Final = regex.compile(r"\p{Lu}?[\p{Ll}\p{Lo}\p{Lm}\p{M}]++|\p{Lu}+(?!\p{Ll})|\p{Lu}")
#: The labels of a name are limited, because trying every number of them takes time in its square.
_ADDRESS: Final = regex.compile(
    r"""
      [\p{L}\p{N}]://\S
    | [\p{L}\p{N}.+\-_"']@[\p{L}\p{N}]
    | ^(?i:www\.|mailto:)
    | ^(?:[\p{L}\p{N}][\p{L}\p{N}\-]*+\.)++\p{L}{2,24}(?::\p{N}++)?[/?\#]\S
    | ^(?:[\p{L}\p{N}][\p{L}\p{N}\-]*+\.){1,9}
      (?i:com|net|org|edu|gov|info|biz|io|dev|app|(?:com|co|org|net|edu|gov|ac)\.\p{L}{2})(?::\p{N}++)?$
    """,
    regex.VERBOSE,
)
#: The beginnings of well-known services' keys, behind which there may be letters alone.
_KEY_HEAD: Final = regex.compile(
    r"(?:[sprw]k[_\-](?:live|test|proj)|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-)|(?:AKIA|ASIA)[A-Z2-7]{16}"
)
#: A size in two directions, as of a screen.
_SIZE: Final = regex.compile(r"\p{N}{2,4}x\p{N}{2,4}")
_LETTER_AND_CODE: Final = regex.compile(r"\p{L}{1,2}-\p{N}{4,}+")
_IBAN_HEAD: Final = regex.compile(r"\p{L}{2}\p{N}{2}")
_SYMBOL_INSIDE: Final = regex.compile(r"[\p{L}\p{N}][@#$%^*]++[\p{L}\p{N}]")
_MARK_INSIDE: Final = regex.compile(r"[\p{L}\p{N}][!?&_\-.]++[\p{L}\p{N}]")


def is_secret_word(word: str) -> bool:
    """Return whether a single word, in lower case, is a code that is no word of any language.

    It finds fewer than `words_without_secrets`, which sees how the word was written and what is around it.
    """
    if not _mixes(word) or _SIZE.fullmatch(word):
        return False
    runs = [run for group in _GROUP.findall(word) for run in _DIGITS_OR_LETTERS.findall(group)]
    size = sum(map(len, runs))
    digits = sum(len(run) for run in runs if run.isdigit())
    return (
        digits >= 5
        or (digits >= 3 and size >= 8)
        or (len(runs) >= 4 and size >= 5)
        or (len(runs) >= 3 and size >= 8)
        or size >= 16
    )


def words_without_secrets(text: str, vocabulary: Vocabulary) -> list[str]:
    """Return the words of a message as `tokenize` does, with one MASKED in the place of every secret.

    Args:
        text: The message as it was typed.
        vocabulary: A word of it may have a number of two digits behind it, in any case (`COVID19`).
    """
    return tokenize(_without_secrets(text, vocabulary) if _SUSPICION.search(text) else text)


def _without_secrets(text: str, vocabulary: Vocabulary) -> str:
    chunks = list(_CHUNK.finditer(text))
    cores = [chunk.group().strip(_EDGES) for chunk in chunks]
    is_secret = [_SUSPICION.search(core) is not None and _is_secret_chunk(core, vocabulary) for core in cores]
    for begin, end in _spread_out(cores):
        is_secret[begin:end] = [True] * (end - begin)
    parts, at = [], 0
    for chunk, is_one in zip(chunks, is_secret, strict=True):
        if is_one:
            parts += [text[at : chunk.start()], _MASK]
            at = chunk.end()
    return "".join([*parts, text[at:]])


def _is_secret_chunk(chunk: str, vocabulary: Vocabulary) -> bool:
    groups = _GROUP.findall(chunk)
    if any(_is_code(group, vocabulary) for group in groups) or _ADDRESS.search(chunk):
        return True
    if _KEY_HEAD.match(chunk):
        return True
    size, digits = sum(map(len, groups)), len(_DIGIT.findall(chunk))
    if not digits:
        return _is_scrambled(groups)
    if size < 5 or size == digits:
        return False
    return (
        # A number in groups with a few letters: an extension behind it, an account's country and bank.
        (digits >= 9 and size - digits <= 4)
        or (digits >= 8 and _IBAN_HEAD.fullmatch(groups[0]) is not None)
        or _LETTER_AND_CODE.fullmatch(chunk) is not None
        or (size >= 6 and len(chunk) <= 1.35 * len(_SEGMENT.findall(chunk)))
        or _is_password(chunk, groups)
        or _is_key(groups)
    )


def _is_code(group: str, vocabulary: Vocabulary) -> bool:
    """Return whether a group, as it was typed, is a code."""
    if not _mixes(group):
        return False
    if is_secret_word(group.lower()):
        return True
    if len(group) < 6 or not _has_capital(group[1:]):
        return False
    word = group.lower().rstrip("0123456789")
    return len(group) - len(word) > 2 or vocabulary.encode([word]) == [OOV]


def _is_scrambled(groups: Sequence[str]) -> bool:
    """Return whether capitals stand in a long group oftener than in names such as `getElementById`."""
    return any(
        len(group) >= shortest
        and (count := len(words.findall(group))) >= fewest
        and len(group) <= 3.2 * count
        for group in groups
        for words, shortest, fewest in ((_CAMEL, 8, 4), (_SEGMENT, 16, 5))
    )


def _is_password(chunk: str, groups: Sequence[str]) -> bool:
    """Return whether symbols join letters and digits as in passwords; a file's path does not count."""
    if len(chunk) >= 6 and _SYMBOL_INSIDE.search(chunk):
        return True
    if len(chunk) < 8 or "/" in chunk or not _MARK_INSIDE.search(chunk):
        return False
    return _has_capital(chunk) and not chunk.isupper() and any(map(_mixes, groups))


def _is_key(groups: Sequence[str]) -> bool:
    """Return whether groups with dashes, colons or blanks between them are one key."""
    are_capitals = all(group.isupper() or group.isdigit() for group in groups)
    if not any(map(_DIGIT.search, groups)) or not (are_capitals or any(map(_mixes, groups))):
        return False
    shortest = min(map(len, groups))
    if len(groups) >= (3 if shortest >= 4 else 5) and shortest >= 2 and shortest == max(map(len, groups)):
        return True
    changes = max(len(_DIGITS_OR_LETTERS.findall(group)) for group in groups)
    return are_capitals and len(groups) >= 2 and sum(map(len, groups)) >= 6 and changes >= 3


def _spread_out(cores: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where several chunks are one secret: the first, and past the last."""
    begin = 0
    while begin < len(cores):
        end = begin
        has_head = _IBAN_HEAD.fullmatch(cores[begin]) is not None
        while end < len(cores) and _may_be_group(cores[end], has_head=has_head):
            end += 1
        if end - begin >= 2:
            yield from _key_or_number(cores, begin, end)
        begin = max(end, begin + 1)


def _may_be_group(core: str, *, has_head: bool) -> bool:
    if not 1 <= len(core) <= 8 or not core.isalnum():
        return False
    return _DIGIT.search(core) is not None or core.isupper() or (has_head and len(core) == 4)


def _key_or_number(cores: Sequence[str], begin: int, end: int) -> Iterator[tuple[int, int]]:
    if _is_key(cores[begin:end]):
        yield begin, end
        return
    # A word with a digit in it before or behind a number is no part of the number.
    while begin < end and not (cores[begin].isdigit() or _IBAN_HEAD.fullmatch(cores[begin])):
        begin += 1
    has_head = begin < end and _IBAN_HEAD.fullmatch(cores[begin]) is not None
    while begin < end and not (cores[end - 1].isdigit() or (has_head and _mixes(cores[end - 1]))):
        end -= 1
    if sum(len(core) for core in cores[begin:end] if core.isdigit()) >= 8:
        yield begin, end


def _mixes(text: str) -> bool:
    """Return whether there are digits and letters."""
    return _DIGIT.search(text) is not None and any(map(str.isalpha, text))


def _has_capital(text: str) -> bool:
    return any(map(str.isupper, text))

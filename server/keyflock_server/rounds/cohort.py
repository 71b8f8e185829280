"""Cohort expressions: they select a task's devices by the attributes that these stated at enrolment.

    locale in ("en", "en-GB") and app_build >= 4200 and tier >= 2 and not ("internal" in tags)

    either     = both { "or" both }
    both       = single { "and" single }
    single     = "not" single | "(" either ")" | test
    test       = ("app_build" | "tier") ("==" | "!=" | "<" | "<=" | ">" | ">=") number
               | "locale" (["not"] "in" "(" text { "," text } ")" | ("==" | "!=") text)
               | text ["not"] "in" "tags"

The language has four attributes, always terminates and has no side effects: an operator's text is parsed,
never run. A locale matches a text as a language range (RFC 4647, basic filtering): ``en`` matches ``en-US``.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, assert_never

#: Maximum number of characters of an expression.
MAX_LENGTH: Final = 1_000
#: Maximum nesting of parentheses and ``not``.
MAX_DEPTH: Final = 16

_NUMBERS: Final = frozenset({"app_build", "tier"})
_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<=": operator.le,
        ">=": operator.ge,
        "<": operator.lt,
        ">": operator.gt,
    }
)
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"[A-Za-z0-9_.\-]{1,35}")|(?P<number>[0-9]{1,10})|(?P<word>[A-Za-z_]+)"""
    r"""|(?P<sign>==|!=|<=|>=|<|>|\(|\)|,))"""
)


class CohortSyntaxError(ValueError):
    """Fault of the operator: the text is no expression; the message says what is expected and where."""


@dataclass(frozen=True, slots=True)
class DeviceAttributes:
    """The attributes of a device that an expression can test."""

    app_build: int
    locale: str
    #: 0 unknown, 1 low, 2 mid, 3 high.
    tier: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison of ``app_build`` or ``tier`` with a number."""

    attribute: str
    comparison: str
    number: int


@dataclass(frozen=True, slots=True)
class LocaleIn:
    """A test of whether the locale is in one of these language ranges."""

    ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HasTag:
    """A test of whether the device has this tag."""

    tag: str


@dataclass(frozen=True, slots=True)
class Not:
    """A negation."""

    of: "Cohort"


@dataclass(frozen=True, slots=True)
class AllOf:
    """A conjunction of two or more parts."""

    parts: tuple["Cohort", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A disjunction of two or more parts."""

    parts: tuple["Cohort", ...]


Cohort = Compared | LocaleIn | HasTag | Not | AllOf | AnyOf


@lru_cache(maxsize=256)
def parse_cohort(text: str) -> Cohort:
    """Parse the expression that an operator wrote.

    Raises:
        CohortSyntaxError: it is longer or deeper than the bounds, or no expression; the message has the
            position, counted from 1.
    """
    if len(text) > MAX_LENGTH:
        raise CohortSyntaxError(f"An expression has at most {MAX_LENGTH} characters, this one {len(text)}.")
    parser = _Parser(text)
    cohort = parser.either(0)
    parser.end()
    return cohort


def matches(cohort: Cohort, device: DeviceAttributes) -> bool:
    """Return whether a device is in the cohort. It never raises, whatever the device's attributes are."""
    match cohort:
        case Compared(attribute, comparison, number):
            value = device.app_build if attribute == "app_build" else device.tier
            return _COMPARISONS[comparison](value, number)
        case LocaleIn(ranges):
            return in_ranges(ranges, device.locale)
        case HasTag(tag):
            return tag in device.tags
        case Not(of):
            return not matches(of, device)
        case AllOf(parts):
            return all(matches(part, device) for part in parts)
        case AnyOf(parts):
            return any(matches(part, device) for part in parts)
        case _:
            assert_never(cohort)


def to_text(cohort: Cohort) -> str:
    """Return an expression that parses to the same cohort."""
    match cohort:
        case Compared(attribute, comparison, number):
            return f"{attribute} {comparison} {number}"
        case LocaleIn(ranges):
            return "locale in (" + ", ".join(f'"{one}"' for one in ranges) + ")"
        case HasTag(tag):
            return f'"{tag}" in tags'
        case Not(of):
            return f"not {_within(of)}"
        case AllOf(parts):
            return " and ".join(_within(part) for part in parts)
        case AnyOf(parts):
            return " or ".join(_within(part) for part in parts)
        case _:
            assert_never(cohort)


def _within(cohort: Cohort) -> str:
    return f"({to_text(cohort)})" if isinstance(cohort, AllOf | AnyOf) else to_text(cohort)


def in_ranges(ranges: tuple[str, ...], locale: str) -> bool:
    """Return whether a locale is in one of these language ranges: ``en`` includes ``en-US``, not ``eng``."""
    parts = _subtags(locale)
    return any(parts[: len(wanted)] == wanted for wanted in map(_subtags, ranges))


def _subtags(locale: str) -> tuple[str, ...]:
    return tuple(locale.lower().replace("_", "-").split("-"))


@dataclass(frozen=True, slots=True)
class _Token:
    #: ``text``, ``number``, ``word``, ``sign`` or ``end``.
    kind: str
    value: str
    #: The position in the text, from 1.
    position: int


class _Parser:
    """A recursive descent parser: one method for each rule of the grammar, one token of lookahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next_at = 0
        self._token = self._read()

    def either(self, depth: int) -> Cohort:
        """Parse ``both { "or" both }``."""
        parts = [self._both(depth)]
        while self._took("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def end(self) -> None:
        """Raise CohortSyntaxError unless the text ends here."""
        if self._token.kind != "end":
            raise self._unexpected("'and', 'or' or the end")

    def _both(self, depth: int) -> Cohort:
        parts = [self._single(depth)]
        while self._took("and"):
            parts.append(self._single(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _single(self, depth: int) -> Cohort:
        if depth > MAX_DEPTH:
            raise CohortSyntaxError(f"At position {self._token.position}: nested deeper than {MAX_DEPTH}.")
        if self._took("not"):
            return Not(self._single(depth + 1))
        if self._took("("):
            inside = self.either(depth + 1)
            self._must(")")
            return inside
        return self._test()

    def _test(self) -> Cohort:
        token = self._token
        if token.kind == "text":
            self._advance()
            is_not = self._took("not")
            self._must("in")
            self._must("tags")
            return _unless(is_not, HasTag(_inside(token)))
        if token.value in _NUMBERS:
            self._advance()
            return Compared(token.value, self._comparison(), int(self._taken("number", "a number").value))
        if token.value == "locale":
            self._advance()
            return self._locale()
        raise self._unexpected("'app_build', 'tier', 'locale', a tag in double quotes, 'not' or '('")

    def _locale(self) -> Cohort:
        for comparison in ("==", "!="):
            if self._took(comparison):
                return _unless(comparison == "!=", LocaleIn((self._locale_text(),)))
        is_not = self._took("not")
        if self._token.value != "in":
            raise self._unexpected("'in'" if is_not else "'in', 'not in', '==' or '!='")
        self._advance()
        self._must("(")
        ranges = [self._locale_text()]
        while self._took(","):
            ranges.append(self._locale_text())
        self._must(")")
        return _unless(is_not, LocaleIn(tuple(ranges)))

    def _locale_text(self) -> str:
        return _inside(self._taken("text", 'a locale in double quotes, for example "en-US"'))

    def _comparison(self) -> str:
        if self._token.value not in _COMPARISONS:
            raise self._unexpected("one of == != < <= > >=")
        return self._advance().value

    def _taken(self, kind: str, wanted: str) -> _Token:
        if self._token.kind != kind:
            raise self._unexpected(wanted)
        return self._advance()

    def _took(self, value: str) -> bool:
        if self._token.kind in {"word", "sign"} and self._token.value == value:
            self._advance()
            return True
        return False

    def _must(self, value: str) -> None:
        if not self._took(value):
            raise self._unexpected(f"'{value}'")

    def _advance(self) -> _Token:
        token, self._token = self._token, self._read()
        return token

    def _read(self) -> _Token:
        found = _TOKEN.match(self._text, self._next_at)
        if found is not None and found.lastgroup is not None:
            self._next_at = found.end()
            return _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1)
        rest = self._text[self._next_at :]
        position = self._next_at + len(rest) - len(rest.lstrip()) + 1
        return _Token("stray" if rest.strip() else "end", rest.strip()[:1], position)

    def _unexpected(self, wanted: str) -> CohortSyntaxError:
        token = self._token
        # The message names the token's kind only: its text may be anything, and the position tells where it
        # is.
        found = {"end": "the end", "stray": "a character that means nothing"}.get(
            token.kind, f"a {token.kind}"
        )
        return CohortSyntaxError(f"At position {token.position}: expected {wanted}, found {found}.")


def _inside(token: _Token) -> str:
    return token.value[1:-1]


def _unless(is_not: bool, cohort: Cohort) -> Cohort:
    return Not(cohort) if is_not else cohort

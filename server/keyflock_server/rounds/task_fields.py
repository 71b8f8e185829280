"""Finds every field of a task file that cannot be read, and says where a misplaced or misspelt key belongs.

Messages quote no value, and a key only if it is a short word of small letters, which no secret is.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from keyflock_compression import CodecError, CodecSpec, parse_spec
from keyflock_server.protocol.wire import without_values
from keyflock_server.rounds.task import CodecByNetwork, TaskSpec

_QUOTABLE: Final = re.compile(r"[a-z_]{1,24}")
#: A longer key is no slip of one of ours, and would take long to compare.
_MAX_KEY_CHARS: Final = 40
#: How alike a misspelt key and the key that was meant are, in the same table and in another one.
_LIKE: Final = 0.7
_LIKE_ELSEWHERE: Final = 0.85
_TOML_TYPES: Final = {"`object`": "a table", "`object | null`": "a table", "`array`": "an array"}
_CODEC_TABLES: Final = frozenset(
    {("codec",), *(("codec_by_network", name) for name in CodecByNetwork.__struct_fields__)}
)
_CODEC_SETTINGS: Final = tuple(
    dict.fromkeys(["codec", *(name for kind in get_args(CodecSpec) for name in kind.__struct_fields__)])
)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field of a task file that cannot be read."""

    #: Where the field is: tables and key.
    place: tuple[str, ...]
    #: The name of the field that was meant, as far as it can be told.
    meant: str
    #: A sentence that begins with table and key.
    sentence: str


def field_problems(tables: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield every problem of a task file's fields.

    Args:
        tables: The file as plain values.
    """
    yield from _struct_problems(tables, TaskSpec, ())


def codec_problems(path: str, codec: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one table of codec settings."""
    rest = {}
    for name, value in codec.items():
        if name in _CODEC_SETTINGS:
            rest[name] = value
        else:
            yield _unknown_key(path, name, _CODEC_SETTINGS)
    is_first = True
    while True:
        try:
            parse_spec(rest)
        except CodecError as error:
            message = str(error)
            blamed = [name for name in rest if re.search(rf"\b{name}\b", message.partition(";")[0])]
            # After one setting is taken away, that it is missing is no mistake of the file's.
            if is_first or blamed:
                yield f"{path}: {message}"
            if not blamed or "codec" in blamed:
                return
            rest = {name: value for name, value in rest.items() if name not in blamed}
            is_first = False
        else:
            return


def _struct_problems(
    table: Mapping[str, Any], kind: type[Struct], place: tuple[str, ...]
) -> Iterator[FieldProblem]:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    path = ".".join(place)
    misspelt: set[str] = set()
    for key, value in table.items():
        here = (*place, key)
        if key not in fields:
            meant = next(iter(_near(key, tuple(fields))), "")
            misspelt.add(meant)
            yield FieldProblem(here, meant, _unknown_key(path, key, tuple(fields)))
        elif here in _CODEC_TABLES and isinstance(value, dict):
            yield from (FieldProblem(here, here[0], one) for one in codec_problems(".".join(here), value))
        else:
            yield from _value_problems(value, fields[key].type, here)
    for name, field in fields.items():
        if field.required and name not in {*table, *misspelt}:
            sentence = f"{path}: missing required field `{name}`.".removeprefix(": ")
            yield FieldProblem((*place, name), name, sentence)


def _value_problems(value: object, kind: Any, place: tuple[str, ...]) -> Iterator[FieldProblem]:  # noqa: ANN401 - a field's type
    inner = _struct_in(kind)
    if inner is not None and isinstance(value, dict):
        yield from _struct_problems(value, inner, place)
        return
    item = _item_struct_in(kind)
    if item is not None and isinstance(value, list):
        are_read = True
        for at, one in enumerate(value):
            if isinstance(one, dict):
                for problem in _struct_problems(one, item, (*place[:-1], f"{place[-1]}[{at}]")):
                    are_read = False
                    yield replace(problem, place=place)
        if not are_read:
            return
    try:
        msgspec.convert(value, kind, builtin_types=(datetime, date, time), str_keys=True)
    except msgspec.ValidationError as error:
        what, _, inside = str(error).rpartition(" - at `$")
        message = without_values(what or str(error))
        for name, in_toml in _TOML_TYPES.items():
            message = message.replace(name, in_toml)
        choices = _choices_of(kind) if message.startswith("Not one of") else []
        listed = f": {', '.join(choices)}" if choices else ""
        where = ".".join(place) + (inside.rstrip("`") if what else "")
        yield FieldProblem(place, place[-1], f"{where}: {message}{listed}.")


def _unknown_key(path: str, key: str, known: tuple[str, ...]) -> str:
    """Say that a table has no such key, and where the key belongs, or which one was meant."""
    place = f"{path}: " if path else ""
    is_quotable = _QUOTABLE.fullmatch(key) or key in _homes()
    what = f"unknown field `{key}`" if is_quotable else "there is a field that is not known"
    return f"{place}{what}; {_suggestion(key, known, is_table=not path)}."


def _suggestion(key: str, known: tuple[str, ...], *, is_table: bool) -> str:
    homes = _homes()
    if key in homes:
        return f"it belongs {_place(homes[key])}"
    if near := _near(key, known):
        return f"did you mean [{near[0]}]" if is_table else f"did you mean {near[0]}"
    elsewhere = _alike(key, tuple(homes), _LIKE_ELSEWHERE)
    if elsewhere:
        return f"did you mean {elsewhere[0]}, which belongs {_place(homes[elsewhere[0]])}"
    return f"there are {', '.join(known)}"


def _near(key: str, known: tuple[str, ...]) -> list[str]:
    """Return the keys of the same table that a misspelt one may have meant, the likeliest first."""
    longer = [name for name in known if name.startswith(f"{key.lower()}_")]
    return longer or _alike(key, known, _LIKE)


def _alike(key: str, known: tuple[str, ...], ratio: float) -> list[str]:
    return get_close_matches(key.lower(), known, 1, ratio) if len(key) <= _MAX_KEY_CHARS else []


def _place(homes: list[str]) -> str:
    tables = [f"to [{home}]" for home in homes if home] + ["at the top of the file"] * ("" in homes)
    return " or ".join(tables)


@cache
def _homes() -> dict[str, list[str]]:
    """Return the tables that each key of a task file belongs to; "" is the file itself."""
    homes: defaultdict[str, list[str]] = defaultdict(list)

    def add(kind: type[Struct], path: str) -> None:
        for field in msgspec.structs.fields(kind):
            homes[field.name].append(path)
            where = f"{path}.{field.name}" if path else field.name
            inner = _struct_in(field.type) or _item_struct_in(field.type)
            if inner is not None:
                add(inner, where)

    add(TaskSpec, "")
    for name in _CODEC_SETTINGS:
        homes[name].append("codec")
    return dict(homes)


def _struct_in(kind: Any) -> type[Struct] | None:  # noqa: ANN401 - a field's type
    return next((one for one in (kind, *get_args(kind)) if _is_struct(one)), None)


def _item_struct_in(kind: Any) -> type[Struct] | None:  # noqa: ANN401 - a field's type
    arrays = (one for one in (kind, *get_args(kind)) if get_origin(one) is tuple)
    return next((item for one in arrays for item in get_args(one) if _is_struct(item)), None)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _choices_of(kind: Any) -> list[str]:  # noqa: ANN401 - a field's type
    for one in (kind, *get_args(kind)):
        if get_origin(one) is Literal:
            return [str(choice) for choice in get_args(one)]
        if isinstance(one, type) and issubclass(one, Enum):
            return [str(choice.value) for choice in one]
    return []

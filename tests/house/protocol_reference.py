"""``make docs``: the column "type" of docs/protocol.md, and docs/protocol.schema.json, from the messages.

Types, bounds, patterns and defaults come from the structs, so that no page can promise others than the server
checks. What a field means stays written by hand on the page; in the schema it is the field's ``#:`` comment.
"""

import json
import re
from enum import EnumMeta
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec import inspect as schema
from tests.house.task_reference import comments

from keyflock_server.protocol import messages, plans, stored_data
from keyflock_server.protocol.calls import CALLS
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.problems import Problem

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "protocol.md"
SCHEMA: Final = ROOT / "docs" / "protocol.schema.json"

MESSAGES: Final[tuple[type[Message], ...]] = tuple(
    kind
    for kind in (*vars(messages).values(), *vars(stored_data).values())
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
)
#: A closed list is written out up to this length; longer ones have a table of their own.
_WRITTEN_OUT: Final = 4
_ABOUT: Final = (
    "The messages of the keyflock protocol, version 1: docs/protocol.md says what they mean. Bodies are "
    "msgpack maps; a string with contentEncoding base64 stands for msgpack bin, and its lengths are those of "
    "the base64 text. Lengths of other strings count Unicode code points. Unknown fields are ignored. "
    "Generated from the server's types by `make docs`."
)


def type_text(field: schema.Field) -> str:
    """Return a field's type, bounds, pattern and default as the page shows them."""
    text = _type(field.type)
    if not field.required and (default := _default(field)) is not None:
        text += f", default {default}"
    return text


def page(text: str) -> str:
    """Return the page with the types that the messages have now; all else is as it was."""
    for kind in MESSAGES:
        head = f"### {kind.__name__}\n"
        before, _, rest = text.partition(head)
        assert rest, f"docs/protocol.md has no heading {kind.__name__}"
        section = re.split(r"(?m)^(?=##)", rest, maxsplit=1)[0]
        after = rest[len(section) :]
        for field in _fields(kind):
            row = re.compile(rf"^(\| \**{re.escape(field.encode_name)}\** \| ).*?( \| )", re.MULTILINE)
            shown = type_text(field)
            section, count = row.subn(lambda found, shown=shown: f"{found[1]}{shown}{found[2]}", section)
            assert count == 1, f"{kind.__name__}.{field.encode_name} has {count} rows"
        text = before + head + section + after
    return text


def json_schema() -> str:
    """Return the schema of all messages, as JSON text."""
    kinds = [kind for call in CALLS for kind in (call.request, call.answer) if kind is not None]
    _, found = msgspec.json.schema_components([*kinds, Problem], ref_template="#/$defs/{name}")
    structs = {
        kind.__name__: kind for kind in (*MESSAGES, *vars(plans).values(), Problem) if _is_struct(kind)
    }
    for name, definition in found.items():
        for field, text in comments(structs[name]).items() if name in structs else ():
            definition["properties"][field]["description"] = text
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "keyflock protocol 1",
        "description": _ABOUT,
        "x-calls": {
            call.name: {
                "request": None if call.request is None else _reference(call.request),
                "answer": [_reference(one) for one in (get_args(call.answer) or (call.answer,)) if one],
            }
            for call in CALLS
        },
        "$defs": dict(sorted(found.items())),
    }
    return json.dumps(portable(whole), indent=1, ensure_ascii=False) + "\n"


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _reference(kind: Any) -> dict[str, str]:  # noqa: ANN401 - a message type
    return {"$ref": f"#/$defs/{kind.__name__}"}


def portable(value: object) -> object:
    """Write Python's end of a text as every other language does, and whole numbers without a fraction.

    Python shares equal types, so whether a bound is 0 or 0.0 depends on which module was imported first.
    """
    match value:
        case dict():
            return {
                name: _pattern(inner) if name == "pattern" and isinstance(inner, str) else portable(inner)
                for name, inner in value.items()
            }
        case list():
            return [portable(inner) for inner in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _pattern(pattern: str) -> str:
    return pattern.removesuffix(r"\Z") + ("$" if pattern.endswith(r"\Z") else "")


def _fields(kind: type[Struct]) -> tuple[schema.Field, ...]:
    found = schema.type_info(kind)
    assert isinstance(found, schema.StructType)
    return found.fields


def _type(kind: schema.Type) -> str:
    match kind:
        case schema.Metadata(type=inner):
            return _type(inner)
        case schema.UnionType(types=types):
            found = [_type(one) for one in types if not isinstance(one, schema.NoneType)]
            is_listed = any("," in one for one in found)
            return (", or " if is_listed else " or ").join([*found, "nil"])
        case schema.StructType(cls=struct):
            return struct.__name__
        case schema.VarTupleType(item_type=item):
            return f"array of {_count(kind.min_length, kind.max_length)}{_type(item)}"
        case schema.EnumType(cls=values):
            return f"str{_choices(values)}"
        case _:
            return _plain_type(kind)


def _plain_type(kind: schema.Type) -> str:
    match kind:
        case schema.IntType() | schema.FloatType():
            name = "int" if isinstance(kind, schema.IntType) else "float"
            return f"{name}{_range(kind.ge, kind.gt, kind.le, kind.lt)}"
        case schema.StrType():
            lengths = _lengths(kind.min_length, kind.max_length, " characters")
            return f"str{lengths}{_matching(kind.pattern)}"
        case schema.BytesType():
            return f"bytes{_lengths(kind.min_length, kind.max_length)}"
        case schema.BoolType() | schema.DictType():
            return "bool" if isinstance(kind, schema.BoolType) else "map"
        case _:
            raise AssertionError(kind)


def _count(minimum: int | None, maximum: int | None) -> str:
    if maximum is None:
        return ""
    return f"{maximum} " if minimum == maximum else f"at most {maximum} "


def _range(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    if gt is None and lt is None:
        if ge is None and le is None:
            return ""
        return f" {_number(ge)}..{_number(le)}" if le is not None else f", at least {_number(ge)}"
    begin = f"({_number(gt)}" if gt is not None else f"[{_number(ge)}"
    end = f"{_number(lt)})" if lt is not None else f"{_number(le)}]"
    return f" in {begin}, {end}"


def _number(value: float | None) -> str:
    assert value is not None
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _lengths(minimum: int | None, maximum: int | None, noun: str = "") -> str:
    if maximum is None:
        return ""
    if minimum == maximum:
        return f", {maximum:,}{noun}"
    return f", {minimum:,} to {maximum:,}{noun}" if minimum else f", at most {maximum:,}{noun}"


def _matching(pattern: str | None) -> str:
    return f", `{_pattern(pattern)}`" if pattern is not None else ""


def _choices(values: EnumMeta) -> str:
    names = [str(member.value) for member in values]  # type: ignore[var-annotated]  # members of a StrEnum
    return (
        ": " + ", ".join(f"`{name}`" for name in names)
        if len(names) <= _WRITTEN_OUT
        else ", of a closed list"
    )


def _default(field: schema.Field) -> str | None:
    if field.default is NODEFAULT or field.default is None or isinstance(field.default, Struct):
        return None
    if isinstance(field.default, bytes):
        return "empty"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(json_schema(), encoding="utf-8")

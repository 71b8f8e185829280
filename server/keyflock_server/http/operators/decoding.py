"""Query strings and JSON bodies become structs; an operator is told every mistake at once.

msgspec stops at the first mistake, so after a failure each field is tried by itself.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from keyflock_server.protocol import wire
from keyflock_server.protocol.operator.call import Query
from keyflock_server.protocol.problems import ApiError, ProblemCode

S = TypeVar("S", bound=msgspec.Struct)
Q = TypeVar("Q", bound=Query)

MAX_QUERY_PARAMETERS: Final = 32
_YEARS: Final = range(1970, 9_000)


def decode_query(text: str, kind: type[Q]) -> Q:
    """Return the query string as a struct of this kind.

    Raises:
        ApiError: fault of the client; ``malformed_query`` names each unknown, repeated or wrong parameter.
    """
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            max_num_fields=MAX_QUERY_PARAMETERS,
            errors="strict",
        )
    except ValueError:
        detail = f"The query string is not name=value&..., or has more than {MAX_QUERY_PARAMETERS} parts."
        raise ApiError(ProblemCode.MALFORMED_QUERY, detail) from None
    values = dict(pairs)
    problems = [f"{name} is there twice." for name in kind.__struct_fields__ if _count(pairs, name) > 1]
    problems += [f"{name} has a control character." for name in values if not values[name].isprintable()]
    problems += _mistakes(values, kind, is_text=True)
    read = None if problems else msgspec.convert(values, kind, strict=False)
    problems += _far_instants(read)
    if read is None or problems:
        raise ApiError(ProblemCode.MALFORMED_QUERY, " ".join(problems), problems=tuple(problems))
    return read


def decode_body(body: bytes, kind: type[S]) -> S:
    """Return the JSON body as a struct of this kind.

    Raises:
        ApiError: fault of the client; ``malformed_body`` names each field that is unknown, missing or wrong.
    """
    try:
        read = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problems = [_sentence(str(error))]
    else:
        if not (far := _far_instants(read)):
            return read
        raise ApiError(ProblemCode.MALFORMED_BODY, " ".join(far), problems=tuple(far))
    try:
        values = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        values = None
    if isinstance(values, dict):
        problems = _mistakes(values, kind, is_text=False) or problems
    raise ApiError(ProblemCode.MALFORMED_BODY, " ".join(problems), problems=tuple(problems))


def _far_instants(read: msgspec.Struct | None) -> list[str]:
    """Return a problem for each instant that not every back end can convert to UTC and store."""
    found = {} if read is None else msgspec.structs.asdict(read)
    return [
        f"{name}: an instant between the years {_YEARS[0]} and {_YEARS[-1]} was expected."
        for name, value in found.items()
        if isinstance(value, datetime) and value.year not in _YEARS
    ]


def _mistakes(values: Mapping[str, Any], kind: type[msgspec.Struct], *, is_text: bool) -> list[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    problems = []
    if kind.__struct_config__.forbid_unknown_fields and not values.keys() <= fields.keys():
        known = ", ".join(fields) or "none"
        unknown = len(values.keys() - fields.keys())
        what = "query parameter" if is_text else "field"
        problems.append(f"{unknown} unknown {what}{'s'[: unknown > 1]}; those that are known: {known}.")
    for name, field in fields.items():
        if name not in values:
            if field.required:
                problems.append(f"{name} is missing.")
            continue
        try:
            msgspec.convert(values[name], field.type, strict=not is_text)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {_sentence(str(error))}")
    return problems


def _count(pairs: list[tuple[str, str]], name: str) -> int:
    return sum(given == name for given, _ in pairs)


def _sentence(message: str) -> str:
    return f"{wire.without_values(message).rstrip('.')}."

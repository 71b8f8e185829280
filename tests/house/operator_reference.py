"""``make docs``: the operator API's OpenAPI document and the tables of docs/operator_api.md, from its table.

Calls, parameters, bodies, answers and roles come from ``protocol.operator.table``, types and bounds from the
structs, meanings from summaries and ``#:`` comments. The server serves the file that is written here, so what
it says of itself is what was reviewed, and ``test_operator_reference`` fails where the code has moved on.
"""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.house.protocol_reference import portable
from tests.house.task_reference import comments

from keyflock_server.protocol.operator.call import AnyCall, NoBody
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.problems import Problem
from keyflock_server.protocol.roles import Role

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "operator_api.md"
DOCUMENT: Final = ROOT / "server" / "keyflock_server" / "http" / "operators" / "openapi.json"
_BEGIN: Final = "<!-- what follows is written by make docs -->\n"
_HEAD: Final = "| call | role | query | body | answer |\n|---|---|---|---|---|\n"
_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM_TYPE: Final = "application/problem+json"
_ABOUT: Final = (
    "The operators' API of a keyflock server, on a port of its own. Its clients are the command keyflock and "
    "the dashboard; anything else may be one too. Errors are problem documents (RFC 9457) with a stable "
    "code. Lists are read a page at a time: `next` of one page is `after` of the next."
)
_PATH_PARAMETERS: Final = {
    "population": "Any name of the population, present or former.",
    "task": "The task's name, which means the newest task of it, or a name with a number: next-word~1.",
    "round": "The round's id.",
    "device": "The device's id.",
    "version": "The number of the model version.",
    "token_id": "The token's id, the part between its two underscores.",
    "sequence": "The number of the entry.",
}
#: The headers that some calls take.
_HEADERS: Final = {
    "If-Match": "The ETag that it had when it was read; if it has changed since, the answer is 412.",
    "Idempotency-Key": "A text of the client's own for each creation: repeated within 24 hours, the call "
    "creates nothing more and gets the first answer again.",
}


def document() -> str:
    """Return the OpenAPI document, as JSON text."""
    structs = [kind for call in OPERATOR_CALLS for kind in (call.query, call.body, call.answer)]
    structs = [kind for kind in structs if kind is not bytes and kind is not NoBody]
    _, components = msgspec.json.schema_components([*structs, Problem], ref_template=_REFERENCE)
    known = {kind.__name__: kind for kind in _structs_within([*structs, Problem])}
    for name, schema in components.items():
        for field, text in comments(known[name]).items() if name in known else ():
            if field in schema.get("properties", {}):
                schema["properties"][field].setdefault("description", text)
    queries = {call.query.__name__: components.pop(call.query.__name__, {}) for call in OPERATOR_CALLS}
    paths: dict[str, dict[str, Any]] = {}
    for call in OPERATOR_CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, queries[call.query.__name__])
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "keyflock operator API", "version": version("keyflock"), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The admin token of the data folder, or an API token; each has a role: "
                    + ", ".join(Role)
                    + ".",
                }
            },
        },
    }
    return json.dumps(portable(whole), indent=1, ensure_ascii=False) + "\n"


def page(text: str) -> str:
    """Return the page with the tables of calls as they are now; what stands above them is as it was."""
    above, _, _ = text.partition(_BEGIN)
    parts = [above, _BEGIN]
    for resource in dict.fromkeys(map(_resource, OPERATOR_CALLS)):
        parts.append(f"\n## {resource.capitalize()}\n\n{_HEAD}")
        parts += [_row(call) for call in OPERATOR_CALLS if _resource(call) == resource]
    return "".join(parts)


def _operation(call: AnyCall, query: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "tags": [_resource(call)],
        "parameters": [*_path_parameters(call), *_query_parameters(query), *_header_parameters(call)],
        "responses": _responses(call),
    }
    if call.role is None:
        operation["security"] = []
    else:
        operation |= {"security": [{"token": []}], "x-role": call.role.value}
    if call.body is not NoBody:
        schema = {} if call.body is bytes else {"$ref": _REFERENCE.format(name=call.body.__name__)}
        content = {media_type: {"schema": schema} for media_type in call.media_types}
        operation["requestBody"] = {"required": True, "content": content}
        operation["x-max-bytes"] = call.max_body_bytes
    return operation


def _path_parameters(call: AnyCall) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", call.path)
    ]


def _query_parameters(query: dict[str, Any]) -> list[dict[str, Any]]:
    required = query.get("required", [])
    found = []
    for name, schema in query.get("properties", {}).items():
        schema = _without_null(schema)  # noqa: PLW2901 - a query string has no null
        parameter = {"name": name, "in": "query", "required": name in required}
        if text := schema.pop("description", ""):
            parameter["description"] = text
        found.append(parameter | {"schema": schema})
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    found = {name: part for name, part in schema.items() if not (name == "default" and part is None)}
    if len(kinds) == 1:
        found = {name: part for name, part in found.items() if name != "anyOf"} | kinds[0]
    return found


def _header_parameters(call: AnyCall) -> list[dict[str, Any]]:
    names = ["If-Match"] if call.takes_if_match else []
    names += ["Idempotency-Key"] if call.is_creation else []
    return [
        {"name": name, "in": "header", "description": _HEADERS[name], "schema": {"type": "string"}}
        for name in names
    ]


def _responses(call: AnyCall) -> dict[str, Any]:
    schema = {} if call.answer is bytes else {"$ref": _REFERENCE.format(name=call.answer.__name__)}
    problem = {"schema": {"$ref": _REFERENCE.format(name="Problem")}}
    return {
        str(call.status): {
            "description": "Done.",
            "content": {call.answer_media_type: {"schema": schema}},
        },
        "default": {"description": "A problem document.", "content": {_PROBLEM_TYPE: problem}},
    }


def _row(call: AnyCall) -> str:
    fields = [f"`{field.name}`" for field in msgspec.structs.fields(call.query)]
    body = ""
    if call.body is bytes:
        body = " or ".join(f"`{media_type}`" for media_type in call.media_types)
    elif call.body is not NoBody:
        body = ", ".join(
            f"**`{field.name}`**" if field.required else f"`{field.name}`"
            for field in msgspec.structs.fields(call.body)
        )
    answer = f"`{call.answer_media_type}`" if call.answer is bytes else call.answer.__name__
    status = f"{call.status}, " if call.status != 200 else ""
    role = "" if call.role is None else call.role.value
    told = f"`{call.method} {call.path}`<br>{call.summary}"
    return f"| {told} | {role} | {', '.join(fields)} | {body} | {status}{answer} |\n"


def _resource(call: AnyCall) -> str:
    """Return the resource that a call is about: the last plural in its path."""
    parts = [part for part in call.path.removeprefix("/admin/v1/").split("/") if not part.startswith("{")]
    nouns = [part for part in parts if part in _RESOURCES]
    return nouns[-1] if nouns else "this document"


_RESOURCES: Final = (
    *("populations", "tasks", "rounds", "versions", "releases", "devices", "personal-models"),
    *("tokens", "audit", "events"),
)


def _structs_within(kinds: list[Any]) -> set[type[msgspec.Struct]]:
    found: set[type[msgspec.Struct]] = set()

    def visit(kind: Any) -> None:  # noqa: ANN401 - a type, or a part of one
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found.add(kind)
            for field in msgspec.structs.fields(kind):
                visit(field.type)
        for inner in getattr(kind, "__args__", ()):
            visit(inner)

    for kind in kinds:
        visit(kind)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    DOCUMENT.write_text(document(), encoding="utf-8")

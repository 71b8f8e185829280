"""The types on the protocol's page and in its JSON schema are the server's own."""

import json
import re
from collections.abc import Iterator

import pytest
from tests.house import protocol_reference

from keyflock_server.protocol.calls import CALLS

pytestmark = pytest.mark.fault("F15")


def schema() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(protocol_reference.SCHEMA.read_text(encoding="utf-8"))
    return found


def within(value: object) -> Iterator[dict[str, object]]:
    """Yield every part of a schema."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from within(inner)


def test_the_page_has_the_types_that_make_docs_writes() -> None:
    written = protocol_reference.PAGE.read_text(encoding="utf-8")

    assert written == protocol_reference.page(written), "the messages have changed: run `make docs`"


def test_the_schema_is_what_make_docs_writes() -> None:
    written = protocol_reference.SCHEMA.read_text(encoding="utf-8")

    assert written == protocol_reference.json_schema(), "the messages have changed: run `make docs`"


def test_the_schema_does_not_depend_on_which_modules_were_imported_first() -> None:
    numbers = [value for part in within(schema()) for value in part.values() if isinstance(value, float)]

    assert numbers
    assert not [value for value in numbers if value.is_integer()]


def test_every_call_and_every_reference_of_the_schema_leads_somewhere() -> None:
    whole = schema()
    references = {part["$ref"] for part in within(whole) if "$ref" in part}

    assert set(whole["x-calls"]) == {call.name for call in CALLS}
    assert references <= {f"#/$defs/{name}" for name in whole["$defs"]}


def test_every_pattern_is_one_that_other_languages_read() -> None:
    patterns = [str(part["pattern"]) for part in within(schema()["$defs"]) if "pattern" in part]

    assert len(patterns) >= 6
    for pattern in patterns:
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert r"\Z" not in pattern
        re.compile(pattern)


def test_every_whole_number_between_phone_and_server_is_exact_in_a_double() -> None:
    messages = {name: part for name, part in schema()["$defs"].items() if name != "Problem"}
    integers = [part for part in within(messages) if part.get("type") == "integer"]

    assert len(integers) >= 30
    for part in integers:
        minimum, maximum = part.get("minimum"), part.get("maximum")
        assert isinstance(minimum, int), part
        assert isinstance(maximum, int), part
        assert minimum >= -(2**53) + 1, part
        assert maximum <= 2**53 - 1, part

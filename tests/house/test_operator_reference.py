"""The operator API's document and page are what ``make docs`` writes, and name exactly the table's calls."""

import json
from collections.abc import Iterator

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from tests.house import operator_reference

from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.table import OPERATOR_CALLS


def document() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    found: dict[str, dict[str, dict[str, dict[str, object]]]] = json.loads(
        operator_reference.DOCUMENT.read_text(encoding="utf-8")
    )
    return found


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == "$ref" and isinstance(inner, str))
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_what_make_docs_writes() -> None:
    written = operator_reference.DOCUMENT.read_text(encoding="utf-8")

    assert written == operator_reference.document(), "the calls have changed: run `make docs`"


def test_the_page_has_the_calls_that_make_docs_writes() -> None:
    written = operator_reference.PAGE.read_text(encoding="utf-8")

    assert written == operator_reference.page(written), "the calls have changed: run `make docs`"


def test_the_document_is_valid_openapi_3_1() -> None:
    validate(document(), cls=OpenAPIV31SpecValidator)


def test_the_document_names_exactly_the_tables_calls() -> None:
    told = {
        (operation["operationId"], method.upper(), path)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }

    assert told == {(call.name, call.method, call.path) for call in OPERATOR_CALLS}


def test_every_schema_that_is_named_is_there() -> None:
    named = set(references(document()))

    assert {f"#/components/schemas/{name}" for name in document()["components"]["schemas"]} == named


@pytest.mark.parametrize("call", OPERATOR_CALLS, ids=lambda call: call.name)
def test_a_call_says_what_it_does_and_which_role_it_needs(call: AnyCall) -> None:
    operation = document()["paths"][call.path][call.method.lower()]

    assert str(operation["summary"]).endswith(".")
    assert operation.get("x-role") == call.role
    assert (operation["security"] == []) is (call.role is None)

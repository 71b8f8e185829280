"""docs/protocol.md says what the code does: every call, field, reason, code and byte."""

import re
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from keyflock_models.evaluation.paired_scores import ENTRIES, FIGURES, METRICS
from keyflock_models.personal.evidence import BOUNDS, EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.protocol import messages
from keyflock_server.protocol.calls import CALLS
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.messages import FailureCause, OfferAction, RefusalReason
from keyflock_server.protocol.problems import PROBLEMS, Problem, ProblemCode

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
VECTORS = ROOT / "tests" / "wire" / "vectors" / "protocol"

MESSAGES: list[type[Message]] = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]


def section(title: str) -> str:
    """The text under a heading, up to the next heading."""
    match = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match is not None, f"the page has no heading {title}"
    return match[1]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose header begins with ``header``."""
    table = text[text.index(f"| {header} |") :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:] if line]


def code_spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_the_page_lists_every_call_as_it_is() -> None:
    told = {row[0]: (row[1], row[5]) for row in rows(section("Calls"), "call")}

    assert told == {
        call.name: (
            f"`{call.method} {call.path}`",
            f"{call.max_body_bytes:,} bytes" if call.max_body_bytes else "",
        )
        for call in CALLS
    }


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_the_page_lists_every_field_and_whether_it_must_be_there(kind: type[Message]) -> None:
    told = {row[0] for row in rows(section(kind.__name__), "field")}

    assert told == {
        f"**{field.encode_name}**" if field.required else field.encode_name
        for field in msgspec.structs.fields(kind)
    }


def test_the_page_lists_every_field_of_a_problem() -> None:
    told = {row[0].strip("*") for row in rows(section("Problems"), "field")}

    assert told == set(Problem.__struct_fields__)


def test_the_page_lists_every_refusal_reason() -> None:
    assert {row[0].strip("`") for row in rows(section("Refusal"), "reason")} == set(RefusalReason)


def test_the_page_lists_every_cause_and_action() -> None:
    assert set(FailureCause) <= code_spans(section("Failure"))
    assert set(OfferAction) <= code_spans(section("OfferAnswer"))


def test_the_page_lists_every_problem_code_with_its_status_and_fault() -> None:
    told = {row[0].strip("`"): (int(row[1]), row[2]) for row in rows(section("Problems"), "code")}

    assert told == {code: (PROBLEMS[code].status, PROBLEMS[code].fault) for code in ProblemCode}


def test_the_page_lists_every_place_of_a_phones_evidence_and_its_bounds() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section("Personalising"), "place")}

    bounds = {name: f"{minimum:g}..{maximum:,.0f}" for name, (minimum, maximum) in BOUNDS.items()}
    assert told == bounds | {RESPONSIBILITIES: "0..1, each row at most 1"}
    assert tuple(told) == EVIDENCE_LAYOUT.names


def test_the_page_lists_every_place_of_paired_scores_and_its_bounds() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section("Evaluating"), "place")}
    metrics = {row[0].strip("`"): row[1] for row in rows(section("Evaluating"), "metric")}
    entries = code_spans(section("Evaluating"))

    assert told == {name: f"{low:g}..{high:,.0f}" for name, (low, high) in FIGURES.items()}
    assert metrics == {name: f"{low:g}..{high:g}" for name, (low, high) in METRICS.items()}
    assert {f"METRIC.{entry}" for entry in ENTRIES} <= entries


def test_the_page_lists_the_alphabet_of_session_shapes() -> None:
    told = {row[0].strip("`") for row in rows(section("Session shape"), "character")}

    assert told == set("-v[]+^#*!")


@pytest.mark.parametrize(("position", "vector"), [(0, "check_in_minimal"), (1, "offer_answer_drop")])
def test_the_bytes_on_the_page_are_the_vectors(position: int, vector: str) -> None:
    block = re.findall(r"```\n(.*?)```", section("Bytes"), re.DOTALL)[position]
    hexadecimal = "".join(re.match(r"((?:\s*[0-9a-f]{2}\b)*)", line)[1] for line in block.splitlines())  # type: ignore[index]  # it matches the empty string

    assert bytes.fromhex(hexadecimal) == (VECTORS / f"{vector}.bin").read_bytes()


def unbounded(info: inspect.Type, path: str) -> list[str]:
    """The fields whose size only the body's limit bounds, times what an entry costs."""
    match info:
        case inspect.StructType(fields=fields):
            return [found for field in fields for found in unbounded(field.type, f"{path}.{field.name}")]
        case inspect.UnionType(types=types):
            return [found for one in types for found in unbounded(one, path)]
        case inspect.CollectionType(max_length=None) | inspect.DictType() | inspect.AnyType():
            return [path]
        case inspect.CollectionType(item_type=item):
            return unbounded(item, path)
        case _:
            return []


def test_no_message_that_the_server_reads_has_free_form_content() -> None:
    """The decoder's memory is bounded by the types alone (docs/decisions/0003)."""
    requests = [call.request for call in CALLS if call.request is not None]

    assert [found for kind in requests for found in unbounded(inspect.type_info(kind), kind.__name__)] == []
    assert unbounded(inspect.type_info(messages.Assignment), "Assignment") == ["Assignment.codec"]

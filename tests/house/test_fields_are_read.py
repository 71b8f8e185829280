"""Every field that a document promises something of is read somewhere: what nobody reads does nothing.

The search is by the syntax tree. A field of a struct counts as read where a parameter that is annotated with
the struct has it read, or an attribute of one of the struct's usual names (``NAMES``) has, or the struct
itself does. Messages to the server must be read by the server, and messages to phones by the simulated phone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from keyflock_compression.spec import CodecSpec
from keyflock_server.protocol import messages, stored_data
from keyflock_server.protocol.calls import CALLS
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.operator.call import ReasonOrder
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.operator.populations import CohortQuestion, RollbackOrder
from keyflock_server.rounds import task
from keyflock_server.rounds.checks_policy import ChecksPolicy
from keyflock_server.settings import Settings

ROOT: Final = Path(__file__).parents[2]
SERVER: Final = ("server/keyflock_server", "compression/keyflock_compression", "models/keyflock_models")
PHONE: Final = (
    "client_sim/keyflock_client_sim",
    "compression/keyflock_compression",
    "models/keyflock_models",
)

#: Attributes and variables that hold such a struct, beside annotated parameters.
NAMES: Final[dict[str, set[str]]] = {
    "Capabilities": {"capabilities"},
    "Conditions": {"conditions"},
    "Settings": {"settings"},
    "TaskHeader": {"task"},
    "RoundPolicy": {"round", "rounds", "policy"},
    "AutoTuning": {"auto", "limits"},
    "Eligibility": {"eligibility", "rules"},
    "DeviceRules": {"rules"},
    "Pacing": {"pacing"},
    "TrainingPlan": {"training", "plan"},
    "Aggregation": {"aggregation", "_rules", "rules"},
    "EnrolRequest": {"request"},
    "CodecSpec": {"spec", "_spec"},
    "Optimizer": {"optimizer"},
    "LearningRateSchedule": {"schedule"},
    "ReleasePolicy": {"release"},
    "QuarantinePolicy": {"quarantine", "policy"},
    "CodecByNetwork": {"codec_by_network"},
    "Personalising": {"personalising", "settings"},
    "PersonalisingPlan": {"plan", "personalising"},
    "EvaluatingPlan": {"plan", "evaluating"},
    "Evaluating": {"comparison"},
    "StopWhen": {"policy"},
    "HeadPlan": {"settings", "head", "plan"},
    "PopulationPrior": {"prior"},
    "TaskSpec": {"spec"},
    "Assignment": {"assignment", "answer"},
    "Refusal": {"refusal", "answer"},
    "Enrolment": {"enrolment", "answer"},
    "OfferAnswer": {"answer"},
    "Receipt": {"answer", "receipt"},
    "FailureAck": {"answer"},
    "ReturnWindow": {"window", "retry", "return_window"},
    "ChecksPolicy": {"checks", "policy"},
    "SuggestionRequest": {"request"},
    "CohortQuestion": {"question"},
    "ReasonOrder": {"body"},
}
OPTIMIZER_PARAMETERS: Final = ("learning_rate", "momentum", "b1", "b2", "eps", "weight_decay")
#: Read by a name that is put together, so that no syntax tree shows it.
READ_BY_NAME: Final = {
    **{f"Optimizer.{name}": "TaskSpec.optimizer_parameters" for name in OPTIMIZER_PARAMETERS},
    "CheckIn.protocol": "http.sdk, before the rest is decoded",
    "EnrolRequest.protocol": "http.sdk, before the rest is decoded",
}
#: Fields that nobody reads here, with the words by which docs/protocol.md says so.
WITHOUT_EFFECT: Final = {
    "EnrolRequest.capabilities": "a check-in's replace them",
    "PopulationPrior.gain_deviation": "told for the record",
    "PopulationPrior.gain_mean": "told for the record",
    "Report.loss_after": "the server does not read it",
    "Report.loss_before": "the server does not read it",
    "Report.train_s": "the server does not read it",
}
#: Messages that the simulated phone does not ask for.
NOT_THE_SIMULATORS: Final = {
    messages.Release: "what keyboards serve",
    messages.Personalisation: "what keyboards serve",
    messages.Forgotten: "forget-me is the app's to call",
    messages.HeadStored: "stored heads are the app's to call",
    messages.HeadErased: "stored heads are the app's to call",
    messages.Suggestions: "suggestions are the keyboard's to ask for",
    messages.Suggestion: "suggestions are the keyboard's to ask for",
}


@dataclass(frozen=True)
class FieldRead:
    """One read of an attribute: of what, where, and whether it is the struct's own code."""

    owner: str
    attribute: str


def structs_within(kind: type) -> Iterator[type]:
    """Yield a struct, and those in its fields."""
    yield kind
    for field in msgspec.structs.fields(kind):
        for inner in _arguments(field.type):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner is not kind:
                yield from structs_within(inner)


def _arguments(kind: object) -> Iterator[object]:
    yield kind
    for inner in get_args(kind):
        yield from _arguments(inner)


def received(by_server: bool) -> set[type]:
    found: set[type] = set()
    for call in CALLS:
        kind = call.request if by_server else call.answer
        for one in (kind, *get_args(kind)):
            if isinstance(one, type) and issubclass(one, Message):
                found |= set(structs_within(one))
    return found


def fields_of(kind: type) -> tuple[str, ...]:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return tuple(one.name for one in dataclass_fields(kind))  # type: ignore[arg-type]  # Settings is one


def promised() -> list[tuple[type, str, tuple[str, ...]]]:
    """Return each struct, the field's name, and the folders in which it must be read."""
    structs: list[tuple[type, tuple[str, ...]]] = [(kind, SERVER) for kind in received(by_server=True)]
    # The stored data is for a person to read; no phone acts on it.
    structs += [
        (kind, PHONE)
        for kind in received(by_server=False) - set(NOT_THE_SIMULATORS)
        if kind.__module__ != stored_data.__name__
    ]
    structs += [(Settings, SERVER), (ChecksPolicy, SERVER)]
    structs += [(kind, SERVER) for kind in (CohortQuestion, ReasonOrder, QuarantineOrder, RollbackOrder)]
    structs += [(kind, SERVER) for kind in structs_within(task.TaskSpec) if kind.__module__ == task.__name__]
    structs += [(kind, (SERVER[1],)) for kind in get_args(CodecSpec)]
    found = {(kind, name, where) for kind, where in structs for name in fields_of(kind)}
    return sorted(found, key=lambda one: (one[0].__name__, *one[1:]))


@cache
def reads_in(folder: str) -> frozenset[FieldRead]:
    found: set[FieldRead] = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        found |= set(_readings(ast.parse(path.read_text(encoding="utf-8"))))
    return frozenset(found)


def _readings(tree: ast.Module) -> Iterator[FieldRead]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                yield from _of_parameters(node, {"self": {name}})
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                kinds = {one.arg: _type_names(one.annotation) for one in arguments if one.annotation}
                yield from _of_parameters(node, kinds)
            case ast.Attribute(value=ast.Name(id=holder) | ast.Attribute(attr=holder)) if _is_read(node):
                for kind, names in NAMES.items():
                    if holder in names:
                        yield FieldRead(kind, node.attr)
            case ast.MatchClass(cls=ast.Name(id=kind) | ast.Attribute(attr=kind)):
                yield from (FieldRead(kind, name) for name in node.kwd_attrs)
            case _:
                pass


def _of_parameters(within: ast.AST, kinds: dict[str, set[str]]) -> Iterator[FieldRead]:
    for node in ast.walk(within) if kinds else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and _is_read(node):
            yield from (FieldRead(kind, node.attr) for kind in kinds.get(node.value.id, ()))


def _type_names(annotation: ast.expr) -> set[str]:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(annotation) if isinstance(node, ast.Attribute)}


def _is_read(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def nobody_reads(kind: type, name: str, folders: tuple[str, ...]) -> bool:
    owners = {base.__name__ for base in kind.__mro__} | (
        {"CodecSpec"} if kind in get_args(CodecSpec) else set()
    )
    return not any(FieldRead(owner, name) in reads_in(folder) for folder in folders for owner in owners)


@pytest.mark.fault("F8")
def test_every_field_is_read_where_it_is_received() -> None:
    unread = {
        f"{kind.__name__}.{name}" for kind, name, folders in promised() if nobody_reads(kind, name, folders)
    }

    assert unread - set(READ_BY_NAME) == set(WITHOUT_EFFECT)


def test_the_page_says_which_fields_have_no_effect() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

    for field, words in WITHOUT_EFFECT.items():
        struct, name = field.split(".")
        section = page.split(f"### {struct}\n")[1].split("\n### ")[0]
        row = next(line for line in section.splitlines() if line.strip("| *").startswith(name))
        assert words in row, field


def test_what_is_read_by_a_name_is_there() -> None:
    known = {f"{kind.__name__}.{name}" for kind, name, _ in promised()}

    assert set(READ_BY_NAME) <= known


@pytest.mark.fault("F8")
def test_a_field_that_nobody_reads_is_found() -> None:
    made_up = msgspec.defstruct("Eligibility", [("min_examples", int), ("min_patience_s", float)])

    unread = [name for name in made_up.__struct_fields__ if nobody_reads(made_up, name, SERVER)]

    assert unread == ["min_patience_s"]

"""What travels is what the golden vectors say, byte for byte: one encoder writes every message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import inspect
from tests.wire.protocol.test_protocol_vectors import MEANINGS, VECTORS

from keyflock_server.coordinator.enrolment import EnrolmentResult
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import CALLS, Call, Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Enrolment, Forgotten, HeadErased
from keyflock_server.protocol.problems import ApiError, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.http.conftest import SdkPort

pytestmark = pytest.mark.fault("F10")

#: The call that each kind of answer belongs to, and the service that gives it.
SERVED: dict[str, tuple[Call, str]] = {
    "Assignment": (calls.CHECK_IN, "check_in"),
    "Refusal": (calls.CHECK_IN, "check_in"),
    "Release": (calls.RELEASE, "release"),
    "OfferAnswer": (calls.OFFER, "offer"),
    "Receipt": (calls.REPORT, "report"),
    "FailureAck": (calls.FAILURE, "failure"),
    "StoredData": (calls.STORED_DATA, "stored_data"),
    "HeadStored": (calls.PUT_HEAD, "put"),
    "HeadErased": (calls.DELETE_HEAD, "delete"),
    "Suggestions": (calls.SUGGEST, "suggest"),
}
#: These are put together by the endpoints, from more than one service.
COMPOSED = {"Enrolment", "Forgotten"}
REQUESTS = {call.request.__name__: call for call in CALLS if call.request is not None}

served = [name for name, (_, message) in MEANINGS.items() if type(message).__name__ in SERVED]
problems = [name for name, (_, message) in MEANINGS.items() if isinstance(message, Problem)]
received = [name for name, (_, message) in MEANINGS.items() if type(message).__name__ in REQUESTS]


def vector(name: str) -> bytes:
    return (VECTORS / f"{name}.bin").read_bytes()


def always(answer: object) -> Callable[..., Awaitable[Any]]:
    """A service that gives this answer, or fails with it."""

    async def scripted(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return scripted


async def send(port: SdkPort, call: Call, body: bytes | None = None) -> Response:
    path = call.path.format(version=7, population="en-US", assignment="a-1")
    if body is None:
        body = port.good_body(call) if call.max_body_bytes else b""
    return await port.endpoints.send(Request(call.method, path, port.headers(call), body))


@pytest.mark.parametrize("name", served)
async def test_an_answer_is_served_as_its_vector_says(
    sdk_port: SdkPort, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = MEANINGS[name]
    call, service = SERVED[type(message).__name__]
    monkeypatch.setattr(sdk_port.service, service, always(message))

    answer = await send(sdk_port, call)

    assert (answer.status, answer.body) == (200, vector(name))


async def test_an_answer_on_a_real_socket_is_its_vector_too(
    sdk_port: SdkPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = MEANINGS["assignment"]
    monkeypatch.setattr(sdk_port.service, "check_in", always(message))

    answer = await sdk_port.send(calls.CHECK_IN)

    assert answer.body == vector("assignment")
    assert answer.body[0] == 0x80 + 12  # the shortest form of a map of twelve


@pytest.mark.parametrize("name", problems)
async def test_a_problem_document_is_served_as_its_vector_says(
    sdk_port: SdkPort, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, document = MEANINGS[name]
    assert isinstance(document, Problem)
    error = ApiError(document.code, document.detail, document.retry)
    monkeypatch.setattr(sdk_port.service, "check_in", always(error))

    answer = await send(sdk_port, calls.CHECK_IN)

    assert (answer.status, answer.body) == (document.status, vector(name))


async def test_an_enrolment_is_served_as_its_vector_says(
    sdk_port: SdkPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = MEANINGS["enrolment"]
    assert isinstance(message, Enrolment)
    result = EnrolmentResult(message.device, PopulationName("en-US"), 0, message.return_window)
    monkeypatch.setattr(sdk_port.service, "enrol", always(result))
    monkeypatch.setattr(sdk_port.endpoints._device_tokens, "issue", lambda *_: message.token)
    monkeypatch.setattr(sdk_port.endpoints._device_tokens, "ttl_s", message.expires_in_s)

    answer = await send(sdk_port, calls.ENROL)

    assert answer.body == vector("enrolment")


@pytest.mark.parametrize("name", ["forgotten", "forgotten_one", "forgotten_with_heads"])
async def test_what_is_forgotten_is_served_as_its_vector_says(
    sdk_port: SdkPort, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = MEANINGS[name]
    assert isinstance(message, Forgotten)
    erased = [HeadErased(heads=message.heads, is_scrubbed=message.is_scrubbed), HeadErased(heads=0)]

    async def erase(*_: object) -> HeadErased:
        return erased.pop(0)

    monkeypatch.setattr(sdk_port.service, "forget", always(Forgotten(devices=message.devices)))
    monkeypatch.setattr(sdk_port.service, "erase", erase)

    answer = await send(sdk_port, calls.FORGET)

    assert answer.body == vector(name)


@pytest.mark.parametrize("name", received)
async def test_a_vector_that_arrives_is_the_message_that_it_says(sdk_port: SdkPort, name: str) -> None:
    _, message = MEANINGS[name]

    answer = await send(sdk_port, REQUESTS[type(message).__name__], vector(name))

    assert answer.status == 200
    heard = sdk_port.service.calls[-1][1]
    if type(message).__name__ == "EnrolRequest":  # the scripted service tells what it was shown, not the rest
        return
    got = heard[1] if isinstance(heard, tuple) else heard
    assert {name: _plain(getattr(got, name)) for name in message.__struct_fields__} == {
        name: _plain(getattr(message, name)) for name in message.__struct_fields__
    }


def test_every_kind_of_message_is_compared() -> None:
    kinds = {type(message).__name__ for _, message in MEANINGS.values()}

    assert kinds == set(SERVED) | COMPOSED | set(REQUESTS) | {"Problem"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_no_message_within_a_message_has_more_fields_than_the_shortest_map_says(call: Call) -> None:
    """The encoder mends the head of the outermost map; within it, sixteen fields or more would be wrong."""
    for kind in (call.request, call.answer, Problem):
        if kind is not None:
            found = inspect.type_info(kind)
            outermost = found.types if isinstance(found, inspect.UnionType) else (found,)
            assert [
                len(one.fields) for top in outermost for one in _within(top) if len(one.fields) > 15
            ] == []


def _within(kind: inspect.Type, *, is_outermost: bool = True) -> list[inspect.StructType]:
    match kind:
        case inspect.StructType():
            deeper = [one for field in kind.fields for one in _within(field.type, is_outermost=False)]
            return deeper if is_outermost else [kind, *deeper]
        case inspect.UnionType(types=types):
            return [one for inner in types for one in _within(inner, is_outermost=False)]
        case inspect.VarTupleType(item_type=item):
            return _within(item, is_outermost=False)
        case inspect.Metadata(type=inner):
            return _within(inner, is_outermost=False)
        case _:
            return []


def _plain(value: object) -> object:
    """A delta is a view of the body where it was received."""
    return bytes(value) if isinstance(value, memoryview) else value

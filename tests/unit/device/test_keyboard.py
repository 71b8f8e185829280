"""A keyboard serves what the server names, also when that is an earlier version, and nothing else."""

import hashlib

import pytest

from keyflock_client_sim.device.keyboard import KeyboardState, ServedModel, ServingKeyboard
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.plans import ModelWeights

EN = PopulationName("en")
BODIES = {version: f"weights of {version}".encode() for version in range(4)}


def digest(version: int) -> bytes:
    return hashlib.sha256(BODIES[version]).digest()


def release(version: int, weights: ModelWeights = ModelWeights.TRAINING) -> Response:
    message = Release(
        population=EN,
        model_version=ModelVersion(version),
        model_digest=digest(version),
        size_bytes=len(BODIES[version]),
        vocabulary="v",
        layout=b"l",
        weights=weights,
    )
    return Response(200, {}, wire.encode(message))


def serving(version: int) -> ServingKeyboard:
    keyboard = ServingKeyboard(EN)
    check(keyboard, version)
    return keyboard


def check(keyboard: ServingKeyboard, version: int) -> None:
    keyboard.check()
    outgoing = keyboard.read(release(version))
    if outgoing is not None:
        assert keyboard.read(Response(200, {}, BODIES[version])) is None


@pytest.mark.parametrize("versions", [(0, 1, 3), (3, 1), (2, 3, 2)])
def test_it_serves_the_version_that_was_named_last_whether_higher_or_lower(versions: tuple[int, ...]) -> None:
    keyboard = ServingKeyboard(EN)

    for version in versions:
        check(keyboard, version)

        assert keyboard.served == ServedModel(ModelVersion(version), digest(version))


def test_it_downloads_a_version_that_it_serves_no_second_time() -> None:
    keyboard = serving(2)

    keyboard.check()

    assert keyboard.read(release(2)) is None
    assert keyboard.state is KeyboardState.IDLE


@pytest.mark.parametrize(
    ("weights", "call"),
    [(ModelWeights.TRAINING, calls.MODEL), (ModelWeights.RELEASED, calls.RELEASED_MODEL)],
)
def test_it_downloads_the_weights_that_the_release_names(weights: ModelWeights, call: calls.Call) -> None:
    keyboard = ServingKeyboard(EN)

    assert keyboard.check().endpoint is calls.RELEASE
    outgoing = keyboard.read(release(1, weights))

    assert outgoing is not None
    assert (outgoing.endpoint, outgoing.path_params) == (call, {"version": "1"})


@pytest.mark.parametrize(
    "answer", [Response(200, {}, b"other bytes"), Response(404, {}, b""), Response(503, {}, b"")]
)
def test_bytes_that_are_not_the_release_are_not_served(answer: Response) -> None:
    keyboard = serving(1)

    keyboard.check()
    assert keyboard.read(release(2)) is not None
    keyboard.read(answer)

    assert keyboard.served == ServedModel(ModelVersion(1), digest(1))
    assert keyboard.state is KeyboardState.IDLE


def test_a_check_whose_answer_was_lost_is_begun_anew() -> None:
    keyboard = serving(1)
    keyboard.check()
    keyboard.read(release(2))

    check(keyboard, 3)

    assert keyboard.served == ServedModel(ModelVersion(3), digest(3))


def test_an_error_leaves_what_is_served() -> None:
    keyboard = serving(1)
    keyboard.check()

    assert keyboard.read(Response(503, {}, b"")) is None
    assert keyboard.served == ServedModel(ModelVersion(1), digest(1))

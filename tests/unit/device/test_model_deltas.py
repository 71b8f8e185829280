"""A device that has an earlier model asks for a delta, and for the whole whenever there is anything wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from keyflock_client_sim.device.device_events import CallFailed
from keyflock_client_sim.device.effects import PatchModel, Send, StoreModel, Train
from keyflock_client_sim.device.input_events import Answered, Interrupted, ModelStored, PatchFailed
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.testing.scripted_server import problem_response
from keyflock_server.protocol.calls import MODEL_DELTA, Response
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from tests.unit.device.conftest import Walk


def digest(walk: Walk, version: int) -> bytes:
    return hashlib.sha256(walk.server.model_body(version)).digest()


def etag(walk: Walk, version: int) -> str:
    return f'"{digest(walk, version).hex()}"'


MakeWalk = Callable[..., "Walk"]


async def at_the_second_model(walk: MakeWalk) -> Walk:
    """A device that has trained from version 0 and has sent its request for version 1's bytes."""
    visit = walk(goal=1, serves_deltas=True)
    await visit.until(DeviceState.UPLOADING, Send)
    await visit.until(DeviceState.DOWNLOADING, Send)
    return visit


def asked(visit: Walk) -> dict[str, str]:
    wants = visit.device.effect
    assert isinstance(wants, Send)
    return {name: wants.request.headers.get(name, "") for name in ("A-IM", "If-None-Match")}


async def test_the_first_model_is_asked_for_whole(walk: MakeWalk) -> None:
    visit = walk(goal=1, serves_deltas=True)

    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}


async def test_the_next_is_patched_from_what_is_kept_and_trained_from(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)
    assert asked(visit) == {"A-IM": MODEL_DELTA, "If-None-Match": etag(visit, 0)}

    patch = await visit.one()

    assert patch == PatchModel(
        digest=digest(visit, 1),
        base=digest(visit, 0),
        delta=b"from 0 to 1",
        content_digest=visit.server.content_digest(1),
    )
    train = visit.tell(ModelStored())
    assert isinstance(train, Train)
    assert train.model_digest == digest(visit, 1)


async def test_what_was_patched_is_a_base_and_the_oldest_is_forgotten(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)
    await visit.until(DeviceState.UPLOADING, Send)
    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit)["If-None-Match"] == f"{etag(visit, 1)}, {etag(visit, 0)}"
    patch = await visit.one()

    assert isinstance(patch, PatchModel)
    assert (patch.base, patch.evicted) == (digest(visit, 1), (digest(visit, 0),))


async def test_a_delta_that_does_not_fit_is_followed_by_the_whole(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)
    await visit.one()

    visit.tell(PatchFailed())

    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}
    store = await visit.one()
    assert isinstance(store, StoreModel)
    assert store.digest == digest(visit, 1)
    assert CallFailed("model", "delta_refused") in visit.device.take_events()
    await visit.until(DeviceState.RESTING)
    assert visit.device.counters.reports_acked == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"im": "vcdiff"},
        {"im": ""},
        {"etag": '"00"'},
        {"delta-base": '"00"'},
        {"delta-base": ""},
        {"delta-base": '"nothing hexadecimal"'},
        {"delta-base": f'"{bytes(32).hex()}"'},
    ],
    ids=repr,
)
async def test_a_delta_that_is_another_than_was_asked_for_is_followed_by_the_whole(
    walk: MakeWalk, wrong: dict[str, str]
) -> None:
    visit = await at_the_second_model(walk)
    headers = {"im": MODEL_DELTA, "etag": etag(visit, 1), "delta-base": etag(visit, 0)} | wrong

    visit.tell(Answered(Response(226, headers, b"delta")))

    assert visit.device.state is DeviceState.DOWNLOADING
    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}


async def test_not_modified_means_the_whole_for_a_model_that_is_not_here(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)

    visit.tell(Answered(Response(304, {"etag": etag(visit, 1)}, b"")))

    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}


async def test_a_server_that_knows_no_deltas_answers_with_the_whole(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)

    store = visit.tell(Answered(Response(200, {}, visit.server.model_body(1))))

    assert isinstance(store, StoreModel)


async def test_without_a_content_digest_no_delta_is_asked_for(walk: MakeWalk) -> None:
    visit = walk(goal=1)
    await visit.until(DeviceState.UPLOADING, Send)

    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}


async def test_a_lost_answer_and_a_new_token_leave_the_request_as_it_was(walk: MakeWalk) -> None:
    visit = await at_the_second_model(walk)
    before = asked(visit)
    visit.server.script("model", ConnectionError())
    await visit.one()
    await visit.one()
    assert asked(visit) == before

    visit.tell(Answered(problem_response(ProblemCode.TOKEN_EXPIRED)))
    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit) == before


async def test_a_phone_that_was_stopped_while_patching_does_not_claim_the_model(
    walk: MakeWalk,
) -> None:
    visit = await at_the_second_model(walk)
    await visit.one()

    visit.tell(Interrupted())
    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit)["If-None-Match"] == etag(visit, 0)


async def test_a_phone_that_was_stopped_while_storing_does_not_claim_the_model(walk: MakeWalk) -> None:
    visit = walk(goal=1, serves_deltas=True)
    await visit.until(DeviceState.DOWNLOADING, StoreModel)

    visit.tell(Interrupted())
    await visit.until(DeviceState.DOWNLOADING, Send)

    assert asked(visit) == {"A-IM": "", "If-None-Match": ""}

"""What a phone has learned can be put, and secrets in what it puts are neither stored nor offered."""

import numpy as np
import pytest
from tests.http.personal.conftest import PersonalHarness, code, head_bytes, personal, vocabulary

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import HeadStored


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    "message", ["the room is 12' wide", "my pin is '482913'", "love you \u2764\ufe0f 3\ufe0f\u20e3"]
)
async def test_any_learned_model_is_stored_and_given_back_as_it_was(
    harness: PersonalHarness, message: str
) -> None:
    phone = await harness.phone()
    data = head_bytes(message)

    put = await phone.send(calls.PUT_HEAD, data)
    got = await phone.send(calls.GET_HEAD)

    assert (put.status, got.status) == (200, 200), code(put)
    assert got.body == data
    PersonalModel.from_state(decode_state(got.body), vocabulary(), width=4)


@pytest.mark.fault("F2")
async def test_secrets_of_an_earlier_release_are_not_stored_or_offered_and_the_rest_is(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone()
    state = personal("xylo yurt").to_state()
    words = state["words"]
    assert isinstance(words, dict)
    words["words"] = ["de89370400440532013000", "yurt"]
    words["candidates"] = ["hunter2pass99", "zinc"]

    put = await phone.send(calls.PUT_HEAD, encode_state(state | {"later": 1}))
    got = await phone.send(calls.GET_HEAD)

    stored = decode_state(got.body)
    assert put.status == 200
    assert wire.decode(put.body, HeadStored).size_bytes == len(got.body)
    assert stored["words"] == {"words": ["", "yurt"], "uses": [0, 20], "candidates": ["zinc"]}
    history = stored["history"]
    assert isinstance(history, dict)
    assert np.asarray(history["ids"]).tolist() == [len(vocabulary()) + 1]
    # What a later release adds stays.
    assert stored["later"] == 1
    assert [await phone.words("", blend="personal", prefix=prefix) for prefix in ("d", "y")] == [[], ["yurt"]]

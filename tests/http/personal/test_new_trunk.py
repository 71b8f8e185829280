"""A stored head and a new model version: kept, carried along, and refused where it comes from nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.http.personal.conftest import (
    ANN,
    CONFIG,
    PersonalHarness,
    PersonalPhone,
    code,
    head_bytes,
    personal,
    vocabulary,
    weights,
)
from tests.http.personal.test_suggestions import reference

from keyflock_compression import decode_state, decode_weights, encode_state, encode_weights
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import PersonalHead, feature_space
from keyflock_models.personal.head_mapping import HeadMap
from keyflock_models.personal.head_trust import HeadPolicy
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_server.personal_models.key_ring import add_encryption_key
from keyflock_server.protocol import calls
from keyflock_server.protocol.messages import Blend, Suggestions
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from keyflock_models.arrays import F32

LAYOUT = ParamLayout.for_config(CONFIG)


def dequantised() -> F32:
    return decode_weights(encode_weights(weights(), LAYOUT), LAYOUT)


def with_head(space: str) -> bytes:
    """A personal model whose head speaks nearly always, and loudly."""
    rng = np.random.default_rng(5)
    model = personal("zoo tea xylophone", "team ten xylophone")
    model.head = PersonalHead(
        space,
        rng.normal(size=(4, 2)).astype(np.float16).astype(np.float32),
        rng.normal(size=(2, 4)).astype(np.float16).astype(np.float32),
        np.array([6, 11], np.int32),
        np.array([3.0, -2.0], np.float32),
    )
    model.weights.responsibilities[:, 1] = 500.0
    return encode_state(model.to_state())


async def on_the_phone(phone: PersonalPhone, head: bytes) -> list[tuple[str, object]]:
    """What the phone itself would suggest with version 1, after "zoo tea"."""
    trunk = decode_weights((await phone.send(calls.MODEL, version="1")).body, LAYOUT)
    published = decode_state((await phone.send(calls.HEAD_MAP, version="1")).body)
    model = PersonalModel.from_state(decode_state(head), vocabulary(), width=CONFIG.embedding_size)
    head_map = HeadMap.from_state(published, width=CONFIG.embedding_size)
    assert model.update_trunk(feature_space(trunk), head_map) is HeadPolicy.MAP
    return [
        (word, pytest.approx(share, abs=1e-5)) for word, share in reference(model, "zoo tea", trunk, count=5)
    ]


def pairs(found: Suggestions) -> list[tuple[str, object]]:
    return [(one.word, one.probability) for one in found.suggestions]


async def test_a_head_survives_a_new_trunk_a_restart_and_a_rotation_at_once(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    head = with_head(feature_space(dequantised()))
    assert (await ann.send(calls.PUT_HEAD, head)).status == 200
    before = await ann.suggest("zoo tea", k=5)

    await harness.next_version()
    add_encryption_key(harness.folder / "head_keys")
    await harness.restart()
    await harness.pass_time()

    assert (await ann.send(calls.GET_HEAD)).body == head
    after = await ann.suggest("zoo tea", k=5)
    assert (before.model_version, after.model_version) == (0, 1)
    assert (before.blend, after.blend) == (Blend.BLENDED, Blend.BLENDED)
    assert pairs(after) == await on_the_phone(ann, head)


async def test_with_a_new_trunk_the_head_speaks_mapped_as_on_the_phone(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    head = with_head(feature_space(dequantised()))
    await ann.send(calls.PUT_HEAD, head)
    old = await ann.suggest("zoo tea", k=5)

    await harness.next_version()

    found = await ann.suggest("zoo tea", k=5)
    assert found.suggestions != old.suggestions
    assert pairs(found) == await on_the_phone(ann, head)


@pytest.mark.parametrize("is_behind", [False, True])
async def test_a_head_of_the_newest_trunk_or_the_one_before_is_kept(
    harness: PersonalHarness, *, is_behind: bool
) -> None:
    ann = await harness.phone(ANN)
    await harness.next_version()
    newest = decode_weights((await ann.send(calls.MODEL, version="1")).body, LAYOUT)

    answer = await ann.send(calls.PUT_HEAD, with_head(feature_space(dequantised() if is_behind else newest)))

    assert answer.status == 200


@pytest.mark.parametrize("space", ["f" * 32, feature_space(weights())])
async def test_a_head_of_a_foreign_trunk_is_refused_and_nothing_is_stored(
    harness: PersonalHarness, space: str
) -> None:
    # The second is of the master weights, which no phone has: what is downloaded was quantised.
    ann = await harness.phone(ANN)

    refused = await ann.send(calls.PUT_HEAD, with_head(space))

    assert (refused.status, code(refused)) == (422, ProblemCode.STALE_HEAD)
    assert (await ann.send(calls.GET_HEAD)).status == 404
    # The counts need no trunk.
    assert (await ann.send(calls.PUT_HEAD, head_bytes("zoo tea"))).status == 200

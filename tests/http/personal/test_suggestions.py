"""Suggestions over the whole server: the user's words, the gate, blocked words, and silence in the log."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from tests.http.personal.conftest import ANN, CONFIG, PersonalHarness, code, head_bytes, vocabulary, weights

from keyflock_compression import decode_state, decode_weights, encode_weights
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import feature_space
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_server.protocol import calls
from keyflock_server.protocol.messages import Blend
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from pathlib import Path

    from keyflock_models.arrays import F32

HEAD = head_bytes("zoo tea xylophone", "team ten xylophone")


def reference(
    model: PersonalModel,
    context: str,
    trunk: F32,
    *,
    count: int = 3,
    is_personal: bool = False,
) -> list[tuple[str, float]]:
    """One user at a time, from the weights that phones download."""
    scorer = NeuralScorer(CONFIG, trunk, vocabulary())
    ids = model.encode(context)
    public = [one if one < len(model.vocabulary) else OOV for one in ids]
    state = scorer.states(np.array([[BOS, *public, EOS]], np.int32))[0, len(ids)]
    embedding, bias = scorer.output_product
    logits = (state @ embedding.T + bias).astype(np.float64)
    alone = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    head = model.head_for(feature_space(trunk))
    by_head = None if head is None else head.probabilities(state[None], embedding, bias)[0]
    return model.suggest(ids, alone.astype(np.float32), count=count, head=by_head, is_personal=is_personal)


async def test_users_with_heads_get_their_own_words_and_others_the_shared_ones(
    harness: PersonalHarness,
) -> None:
    ann, other = await harness.phone(ANN), await harness.phone()
    await ann.send(calls.PUT_HEAD, HEAD)

    hers, others = await ann.suggest("zoo tea"), await other.suggest("zoo tea")

    assert hers.suggestions[0].word == "xylophone"
    assert hers.blend is Blend.BLENDED
    assert "xylophone" not in [one.word for one in others.suggestions]
    assert others.blend is Blend.GLOBAL


async def test_answers_are_those_of_the_one_user_reference(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, HEAD)
    layout = ParamLayout.for_config(CONFIG)
    dequantised = decode_weights(encode_weights(weights(), layout), layout)

    for context in ("", "zoo", "zoo tea", "team ten unheard", "xylophone"):
        for blend in (Blend.BLENDED, Blend.PERSONAL):
            found = (await ann.suggest(context, blend=blend)).suggestions
            model = PersonalModel.from_state(decode_state(HEAD), vocabulary(), width=CONFIG.embedding_size)
            expected = reference(model, context, dequantised, is_personal=blend is Blend.PERSONAL)
            assert [one.word for one in found] == [word for word, _ in expected]
            for one, (_, probability) in zip(found, expected, strict=True):
                assert abs(one.probability - probability) <= 1e-5


async def test_a_shut_gate_gives_the_shared_words(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, head_bytes("zoo tea xylophone", is_open=False))

    blended, shared = await ann.suggest("zoo tea"), await ann.suggest("zoo tea", blend=Blend.GLOBAL)

    assert blended.blend is Blend.GLOBAL
    assert blended.suggestions == shared.suggestions


async def test_a_prefix_is_completed_with_the_users_words_too(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, HEAD)

    assert await ann.words("zoo tea", prefix="xy") == ["xylophone"]
    assert sorted(await ann.words("zoo", prefix="te", k=10)) == ["tea", "team", "ten"]
    assert await ann.words("zoo", prefix="q") == []


@pytest.mark.parametrize("prefix", ["Xy", "XY", "x"])
async def test_a_word_begun_with_a_capital_is_completed_too(harness: PersonalHarness, prefix: str) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, HEAD)

    assert await ann.words("zoo tea", prefix=prefix) == ["xylophone"]


async def test_a_new_head_is_heard_at_once_and_a_deleted_one_no_more(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, HEAD)
    before = await ann.words("zoo tea")
    await ann.send(calls.PUT_HEAD, head_bytes("zoo tea yurt", "zoo tea yurt"))
    after = await ann.words("zoo tea")
    await ann.send(calls.DELETE_HEAD)

    assert before[0] == "xylophone"
    assert after[0] == "yurt"
    assert (await ann.suggest("zoo tea")).blend is Blend.GLOBAL


async def test_a_phone_that_names_its_user_at_refresh_gets_that_users_words(harness: PersonalHarness) -> None:
    ann, phone = await harness.phone(ANN), await harness.phone()
    await ann.send(calls.PUT_HEAD, HEAD)
    before = await phone.suggest("zoo tea")

    await phone.refresh(ANN)

    assert before.blend is Blend.GLOBAL
    assert (await phone.words("zoo tea"))[0] == "xylophone"


async def test_blocked_words_are_never_shown(harness: PersonalHarness, tmp_path: Path) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.PUT_HEAD, HEAD)
    (tmp_path / "blocked").write_text("Xylophone\n\nthe\n")

    await harness.restart(blocked_words=tmp_path / "blocked")

    shown = {word for context in ("zoo tea", "") for word in await ann.words(context, k=10)}
    shown |= set(await ann.words("", prefix="x", k=10)) | set(await ann.words("", prefix="th", k=10))
    assert shown
    assert not shown & {"xylophone", "the"}


async def test_many_questions_at_once_are_answered_as_one_by_one(harness: PersonalHarness) -> None:
    phones = [await harness.phone(f"{ANN}-{number}") for number in range(6)]
    for number, phone in enumerate(phones):
        await phone.send(calls.PUT_HEAD, head_bytes(f"zoo own{number}w", f"ten own{number}w"))

    alone = [await phone.suggest("zoo") for phone in phones]
    together = await asyncio.gather(*(phone.suggest("zoo") for phone in phones * 20))

    assert [found.suggestions[0].word for found in alone] == [f"own{number}w" for number in range(6)]
    for number, found in enumerate(together):
        expected = alone[number % 6].suggestions
        assert [one.word for one in found.suggestions] == [one.word for one in expected]


async def test_a_forgotten_phone_is_told_to_enrol_anew(harness: PersonalHarness) -> None:
    ann = await harness.phone(ANN)
    await ann.send(calls.FORGET)

    answer = await ann.send(calls.PUT_HEAD, HEAD)

    assert (answer.status, code(answer)) == (401, ProblemCode.TOKEN_INVALID)


async def test_no_word_that_was_typed_is_in_the_log(
    harness: PersonalHarness, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ann = await harness.phone(ANN)
    with caplog.at_level(logging.DEBUG):
        await ann.send(calls.PUT_HEAD, HEAD)
        await ann.suggest("secretcontext zoo", prefix="xyl")
        await ann.send(calls.SUGGEST, b"secretcontext")
        for fields in (
            {"blend": "secretcontext"},
            {"context": "secretcontext\0"},
            {"prefix": "secret context"},
        ):
            await ann.send(calls.SUGGEST, msgspec.msgpack.encode({"context": "zoo", **fields}))
        await ann.send(calls.PUT_HEAD, HEAD + b"secretcontext")
        await harness.restart()

    written = caplog.text + "".join(capfd.readouterr())
    for word in ("secretcontext", "xylophone", ANN):
        assert word not in written

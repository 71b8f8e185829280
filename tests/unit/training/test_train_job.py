"""A phone's training through the pool: the same delta as in one process, encoded as the assignment says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keyflock_client_sim.training.model_folder import ModelDigest
from keyflock_client_sim.training.pool import JobError, WorkerPool
from keyflock_client_sim.training.residuals import ResidualFile
from keyflock_client_sim.training.train_job import TrainJob, local_training
from keyflock_compression import (
    DEFAULT_SPEC,
    CodecSpec,
    DeadzoneRowsSpec,
    Float32Spec,
    decode,
    decode_weights,
    encode_weights,
    nmse,
)
from keyflock_compression.feedback import Residual
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import recut
from keyflock_models.text.special_tokens import BOS
from keyflock_models.training.local_training import local_train
from keyflock_server.protocol.plans import TrainingPlan

CONFIG = ModelConfig.named("tiny")
LAYOUT = ParamLayout.for_config(CONFIG)
WEIGHTS = np.random.default_rng(1).normal(0, 0.1, LAYOUT.size).astype(np.float32)
SEQUENCES = np.random.default_rng(2).integers(4, 64, (20, 9), dtype=np.int32)
PLAN = TrainingPlan(learning_rate=0.3, batch_size=8, sequence_length=8, max_examples=16)


def job(model: ModelDigest, codec: CodecSpec) -> TrainJob:
    return TrainJob(
        model=model,
        config=CONFIG,
        sequences=SEQUENCES,
        plan=PLAN,
        codec=codec.to_wire(),
        seed=7,
        measures_error=True,
    )


async def test_the_container_holds_what_local_training_gives_in_this_process(compilation_cache: Path) -> None:
    codec = Float32Spec()

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        model = pool.publish(encode_weights(WEIGHTS, LAYOUT, precision="float32"))
        trained = await pool.train(job(model, codec))

    expected = local_train(CONFIG, WEIGHTS, SEQUENCES, local_training(PLAN), seed=7)
    np.testing.assert_allclose(
        decode(trained.container, LAYOUT, spec=codec).dense(), expected.delta, rtol=1e-4, atol=1e-6
    )
    assert trained.examples == 16
    assert trained.loss_after < trained.loss_before
    assert trained.train_s > 0
    assert trained.error_nmse == 0.0


async def test_a_lossy_codec_says_what_it_lost_and_an_unpublished_model_is_refused(
    compilation_cache: Path,
) -> None:
    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        model = pool.publish(encode_weights(WEIGHTS, LAYOUT))
        trained = await pool.train(job(model, DEFAULT_SPEC))

        assert trained.error_nmse is not None
        assert 0.0 < trained.error_nmse < 1.0
        with pytest.raises(JobError, match=r"^UnknownModelError: no model 000000000000 on the shelf$"):
            await pool.train(job(ModelDigest("0" * 64), DEFAULT_SPEC))


async def test_what_a_report_lost_goes_into_the_phones_next_one(
    compilation_cache: Path, tmp_path: Path
) -> None:
    coarse = DeadzoneRowsSpec(target_nmse=0.5, feedback_s=100.0)
    mine = ResidualFile.of(tmp_path, "phone")

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        plain = job(pool.publish(encode_weights(WEIGHTS, LAYOUT)), coarse)
        first, second, late = [
            decode((await pool.train(replace(plain, residual=mine, now_s=now_s))).container, LAYOUT).dense()
            for now_s in (0.0, 60.0, 1_000.0)
        ]

    alone = local_train(
        CONFIG,
        decode_weights(encode_weights(WEIGHTS, LAYOUT), LAYOUT),
        SEQUENCES,
        local_training(PLAN),
        seed=7,
    ).delta
    # Two reports of the same delta say more of it together than twice what one says.
    assert nmse(2 * alone, first + second) < 0.6 * nmse(2 * alone, 2 * first)
    # What is older than feedback_s counts no more; nothing but floating point differs from the first.
    np.testing.assert_array_equal(late, first)


def test_a_file_that_is_no_residual_is_none(tmp_path: Path) -> None:
    mine = ResidualFile.of(tmp_path, "phone")

    assert mine.read() is None
    mine.path.write_bytes(b"garbage")
    assert mine.read() is None
    mine.write(Residual(b"bytes", 3.0))
    assert mine.read() == Residual(b"bytes", 3.0)
    assert ResidualFile.of(tmp_path, "another").read() is None


def test_every_field_of_a_plan_that_changes_the_mathematics_reaches_local_training() -> None:
    plan = TrainingPlan(
        learning_rate=0.5, epochs=2, batch_size=4, max_examples=9, gradient_clip_norm=1.5, candidates=40
    )

    training = local_training(plan)

    assert training.learning_rate == 0.5
    assert (training.epochs, training.batch_size, training.max_examples) == (2, 4, 9)
    assert (training.gradient_clip_norm, training.candidates) == (1.5, 40)


@pytest.mark.fault("F8")
async def test_a_phone_cuts_its_text_into_sequences_as_long_as_the_plan_says(compilation_cache: Path) -> None:
    codec = Float32Spec()
    messages = np.concatenate([np.full((20, 1), BOS, np.int32), SEQUENCES[:, 1:]], axis=1)
    plan = TrainingPlan(learning_rate=0.3, batch_size=8, sequence_length=4, max_examples=100)

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        model = pool.publish(encode_weights(WEIGHTS, LAYOUT, precision="float32"))
        trained = await pool.train(replace(job(model, codec), sequences=messages, plan=plan))

    expected = local_train(CONFIG, WEIGHTS, recut(messages, 4), local_training(plan), seed=7)
    assert trained.examples == 40
    np.testing.assert_allclose(
        decode(trained.container, LAYOUT, spec=codec).dense(), expected.delta, rtol=1e-4, atol=1e-6
    )

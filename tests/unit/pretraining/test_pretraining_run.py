"""Pre-training learns, goes on after a kill, and is kept once done."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from keyflock_client_sim.corpora.text import CorpusError, UserText
from keyflock_client_sim.pretraining.checkpoint_cache import load_cached, load_or_pretrain
from keyflock_client_sim.pretraining.driver import pretrain
from keyflock_client_sim.pretraining.progress import PretrainingProgress, StateError, load_state
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.network.config import ModelConfig
from keyflock_models.training.pretraining import PretrainingConfig

CONFIG = ModelConfig(vocabulary_size=40, embedding_size=8, hidden_size=12)
PLAN = PretrainingConfig(learning_rate=2e-2, batch_size=8)


class KilledError(Exception):
    """Stands for a kill between two stretches."""


def clock_that_advances(seconds: float) -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


def ordered(*, epochs: float = 4.0, message: str = "you and the a to of it") -> PretrainingSpec:
    users = tuple(UserText(f"user-{number}", (message,) * 30) for number in range(40))
    return PretrainingSpec(corpus="made", users=users, config=CONFIG, plan=PLAN, epochs=epochs)


async def test_the_model_learns_what_everybody_says_and_says_where_it_comes_from(
    compilation_cache: Path,
) -> None:
    seen: list[PretrainingProgress] = []

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        checkpoint = await pretrain(ordered(), pool, clock=clock_that_advances(1.0), on_progress=seen.append)

    assert seen[-1].ratio == 1.0
    assert seen[-1].epochs == pytest.approx(4.0, rel=0.05)
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert seen[-1].recall_at_1 is not None
    assert seen[-1].recall_at_1 > 0.9
    assert checkpoint.lineage["pretrained_on"] == "made"
    assert checkpoint.lineage["pretraining_order"] == ordered().key
    assert checkpoint.anchor is not None


async def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, compilation_cache: Path) -> None:
    state = tmp_path / "model.state"

    def kill_half_way(moment: PretrainingProgress) -> None:
        if moment.ratio > 0.5:
            raise KilledError

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        whole = await pretrain(ordered(), pool, clock=clock_that_advances(10.0))
        with pytest.raises(KilledError):
            await pretrain(
                ordered(), pool, clock=clock_that_advances(10.0), state_path=state, on_progress=kill_half_way
            )
        assert state.exists()
        resumed = await pretrain(ordered(), pool, clock=clock_that_advances(10.0), state_path=state)

    np.testing.assert_array_equal(resumed.weights, whole.weights)


async def test_an_end_in_time_counts_the_time_before_the_kill(
    tmp_path: Path, compilation_cache: Path
) -> None:
    state = tmp_path / "model.state"
    order = PretrainingSpec(
        corpus="made", users=ordered().users, config=CONFIG, plan=PLAN, seconds=400.0, epochs=1_000.0
    )

    def kill(_moment: PretrainingProgress) -> None:
        if state.exists():
            raise KilledError

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        with pytest.raises(KilledError):
            await pretrain(order, pool, clock=clock_that_advances(10.0), state_path=state, on_progress=kill)
        saved = load_state(state, spec_key=order.key)
        seen: list[PretrainingProgress] = []
        await pretrain(
            order, pool, clock=clock_that_advances(10.0), state_path=state, on_progress=seen.append
        )

    assert saved is not None
    assert saved.elapsed_s > 0
    assert seen[0].elapsed_s > saved.elapsed_s
    assert 400.0 <= seen[-1].elapsed_s < 600.0


async def test_another_order_does_not_go_on_from_this_ones_state(
    tmp_path: Path, compilation_cache: Path
) -> None:
    state = tmp_path / "model.state"

    def kill(_moment: PretrainingProgress) -> None:
        if state.exists():
            raise KilledError

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        with pytest.raises(KilledError):
            await pretrain(
                ordered(), pool, clock=clock_that_advances(10.0), state_path=state, on_progress=kill
            )
        with pytest.raises(StateError, match=r"model\.state: belongs to another text, size or plan"):
            await pretrain(ordered(epochs=5.0), pool, clock=clock_that_advances(1.0), state_path=state)


def test_a_file_that_is_no_state_is_refused_in_one_line(tmp_path: Path) -> None:
    state = tmp_path / "model.state"
    state.write_bytes(b"something else")

    with pytest.raises(StateError, match="not a state of pre-training; begin anew with --no-resume"):
        load_state(state, spec_key="0" * 64)
    assert load_state(tmp_path / "missing", spec_key="0" * 64) is None


async def test_the_same_order_is_trained_once_and_a_broken_copy_is_trained_again(
    tmp_path: Path, compilation_cache: Path
) -> None:
    times: list[int] = []

    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        for _ in range(3):
            seen: list[PretrainingProgress] = []
            checkpoint = await load_or_pretrain(
                ordered(epochs=0.5),
                pool,
                folder=tmp_path,
                clock=clock_that_advances(1.0),
                on_progress=seen.append,
            )
            times.append(len(seen))
            if len(times) == 2:
                (tmp_path / f"{ordered(epochs=0.5).key}.safetensors").write_bytes(b"broken")

    assert times[0] > 0
    assert times == [times[0], 0, times[0]]
    found = load_cached(ordered(epochs=0.5), tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.weights, checkpoint.weights)
    assert load_cached(ordered(epochs=0.25), tmp_path) is None


async def test_text_without_a_word_is_refused(compilation_cache: Path) -> None:
    async with WorkerPool(1, compilation_cache=compilation_cache) as pool:
        with pytest.raises(CorpusError, match="no word to train on"):
            await pretrain(ordered(message="..."), pool, clock=clock_that_advances(1.0))


def test_an_order_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an end"):
        PretrainingSpec(corpus="made", users=(), config=CONFIG)


def test_orders_share_a_key_only_if_the_same_was_ordered() -> None:
    keys = {ordered().key, ordered(epochs=5.0).key, ordered(message="you and a").key}

    assert len(keys) == 3
    assert ordered().key in keys

"""Reference deltas: what the same phones report at three moments of training, the same in every run.

    python -m benchmarks.reference_deltas      makes the models they start from (two minutes, once)

The full-size model reads the default corpus's public third once, then goes through ten rounds of 24 phones
without compression; the models after none, four and ten of them are cached in the user's cache folder. Deltas
are one local epoch from there, of sixteen phones: made anew each time, which takes seconds. Nothing depends
on how fast the machine is.
"""

import asyncio
import hashlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.experiments.compression.options import FLOAT32
from keyflock_client_sim.experiments.compression.run import draw_cohort
from keyflock_client_sim.experiments.compression.training_rounds import arm_toml, training_rounds
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.train_job import local_training
from keyflock_client_sim.training_setup.options import DemoOptions
from keyflock_client_sim.training_setup.starting_point import starting_point, version_0
from keyflock_client_sim.training_setup.text import DemoText, read_demo_text
from keyflock_compression import decode_weights, encode, encode_weights
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_models.training.local_training import local_train

#: Number of rounds behind the model that phones train from, by stage.
STAGES: Final = {"early": 0, "middle": 4, "late": 10}
PHONES: Final = 16
_GOAL: Final = 24
_MIN_EXAMPLES: Final = 16

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceDeltas:
    """The deltas of sixteen phones at each stage, and the models they start from."""

    layout: ParamLayout
    #: For each stage one delta a phone. Shape (P,), float32.
    deltas: dict[str, list[Weights]]
    #: For each stage the model that phones start from, before it is packed. Shape (P,), float32.
    models: dict[str, Weights]


def reference_deltas(phones: int = PHONES) -> ReferenceDeltas:
    """Return the deltas of the first ``phones`` phones."""
    checkpoint, text = asyncio.run(full_size_start())
    layout = ParamLayout.for_config(checkpoint.config)
    models = _models(checkpoint, text)
    plan = local_training(training_rounds(_task(), checkpoint).plan)
    rows = _phones_with_enough_text(text)
    deltas = {}
    for stage, weights in models.items():
        start = decode_weights(encode_weights(weights, layout), layout)
        deltas[stage] = [
            local_train(checkpoint.config, start, rows[name], plan, seed=0).delta
            for name in sorted(rows)[:phones]
        ]
    return ReferenceDeltas(layout, deltas, models)


async def full_size_start() -> tuple[Checkpoint, DemoText]:
    """Return version 0 of the full size, and the phones' text."""
    options = DemoOptions(size="full")
    corpus, parts = read_demo_text(options)
    spec = starting_point(options, corpus, parts)
    assert isinstance(spec, PretrainingSpec)
    # By epochs alone: an end in time would make another model of it on a slower machine.
    spec = replace(spec, seconds=None, epochs=1.0)
    folder = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=folder / "xla") as pool:
        checkpoint = await version_0(
            spec, pool, cache=folder / "pretrained", clock=time.monotonic, on_progress=lambda _: None
        )
    return checkpoint, DemoText.of(parts, checkpoint.vocabulary)


def _models(checkpoint: Checkpoint, text: DemoText) -> dict[str, Weights]:
    """Return the weights of each stage; they are cached by what they depend on."""
    version = hashlib.sha256(checkpoint.weights.tobytes() + _task().encode()).hexdigest()[:16]
    cached = user_cache_folder(os.environ) / "studies" / f"reference-models-{version}.npz"
    if not cached.is_file():
        _save(cached, _train_models(checkpoint, text))
    with np.load(cached) as file:
        return {stage: file[stage] for stage in STAGES}


def _train_models(checkpoint: Checkpoint, text: DemoText) -> dict[str, Weights]:
    rounds, rows = training_rounds(_task(), checkpoint), _phones_with_enough_text(text)
    layout, plan = ParamLayout.for_config(checkpoint.config), local_training(rounds.plan)
    models: dict[str, Weights] = {}
    for number in range(max(STAGES.values()) + 1):
        models |= {stage: rounds.weights for stage, behind in STAGES.items() if behind == number}
        if number == max(STAGES.values()):
            break
        print(f"reference deltas: round {number + 1} of {max(STAGES.values())}", flush=True)
        start = decode_weights(rounds.download(), layout)
        for member in draw_cohort(sorted(rows), _GOAL, seed=0, number=number):
            trained = local_train(checkpoint.config, start, rows[member.phone], plan, seed=member.seed)
            rounds.add_report(encode(trained.delta, layout, FLOAT32, seed=0), trained.examples)
        rounds.close_round()
    return models


def _save(file: Path, models: dict[str, Weights]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **models)
    partial.replace(file)


def _phones_with_enough_text(text: DemoText) -> dict[str, NDArray[np.int32]]:
    return {name: rows for name, rows in text.phones.items() if len(rows) >= _MIN_EXAMPLES}


def _task() -> str:
    return arm_toml(FLOAT32, goal=_GOAL, rounds=max(STAGES.values()))


if __name__ == "__main__":
    found = reference_deltas()
    for stage, deltas in found.deltas.items():
        norms = [float(np.linalg.norm(delta)) for delta in deltas]
        print(f"{stage}: {len(deltas)} deltas, norms {min(norms):.3f} to {max(norms):.3f}")

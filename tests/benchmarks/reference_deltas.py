"""Reference deltas: what the same phones report at three moments of training, the same in every run.

    python -m tests.benchmarks.reference_deltas      makes the models they start from (two minutes, once)

The full-size model reads the default corpus's public third once, then goes through ten rounds of 24 phones
without compression; the models after none, four and ten of them are kept in the user's cache folder. Deltas
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
from keyflock_client_sim.demo.options import DemoOptions
from keyflock_client_sim.demo.starting_point import starting_point, version_0
from keyflock_client_sim.demo.text import DemoText, read_demo_text
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.studies.compression_options import FLOAT32
from keyflock_client_sim.studies.compression_rounds import arm_toml, bare_rounds
from keyflock_client_sim.studies.compression_run import cohort
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.train_job import local_training
from keyflock_compression import decode_weights, encode, encode_weights
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.layout import ParamLayout
from keyflock_models.local_training import local_train

#: Rounds behind the model that phones train from.
STAGES: Final = {"early": 0, "middle": 4, "late": 10}
PHONES: Final = 16
_GOAL: Final = 24
_LEAST_EXAMPLES: Final = 16

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceDeltas:
    """What sixteen phones report at each stage, and from what."""

    layout: ParamLayout
    #: By stage, one a phone, shape (P,), float32.
    deltas: dict[str, list[Weights]]
    #: By stage, the model that they start from, before it is packed for phones. Shape (P,), float32.
    models: dict[str, Weights]


def reference_deltas(phones: int = PHONES) -> ReferenceDeltas:
    """The deltas of the first ``phones`` of them."""
    checkpoint, text = asyncio.run(beginning())
    layout = ParamLayout.of(checkpoint.config)
    models = _models(checkpoint, text)
    plan = local_training(bare_rounds(_task(), checkpoint).plan)
    rows = _able(text)
    deltas = {}
    for stage, weights in models.items():
        start = decode_weights(encode_weights(weights, layout), layout)
        deltas[stage] = [
            local_train(checkpoint.config, start, rows[name], plan, seed=0).delta
            for name in sorted(rows)[:phones]
        ]
    return ReferenceDeltas(layout, deltas, models)


async def beginning() -> tuple[Checkpoint, DemoText]:
    """Version 0 of the full size, and the phones' text."""
    options = DemoOptions(size="full")
    corpus, parts = read_demo_text(options)
    origin = starting_point(options, corpus, parts)
    assert isinstance(origin, PretrainingOrder)
    # By epochs alone: an end in time would make another model of it on a slower machine.
    origin = replace(origin, seconds=None, epochs=1.0)
    folder = user_cache_folder(os.environ)
    async with WorkerPool.of_cores(compilation_cache=folder / "xla") as pool:
        checkpoint = await version_0(
            origin, pool, cache=folder / "pretrained", clock=time.monotonic, on_progress=lambda _: None
        )
    return checkpoint, DemoText.of(parts, checkpoint.vocabulary)


def _models(checkpoint: Checkpoint, text: DemoText) -> dict[str, Weights]:
    """The weights of each stage; kept by what they follow from."""
    version = hashlib.sha256(checkpoint.weights.tobytes() + _task().encode()).hexdigest()[:16]
    kept = user_cache_folder(os.environ) / "studies" / f"reference-models-{version}.npz"
    if not kept.is_file():
        _keep(kept, _trained(checkpoint, text))
    with np.load(kept) as file:
        return {stage: file[stage] for stage in STAGES}


def _trained(checkpoint: Checkpoint, text: DemoText) -> dict[str, Weights]:
    rounds, rows = bare_rounds(_task(), checkpoint), _able(text)
    layout, plan = ParamLayout.of(checkpoint.config), local_training(rounds.plan)
    models: dict[str, Weights] = {}
    for number in range(max(STAGES.values()) + 1):
        models |= {stage: rounds.weights for stage, behind in STAGES.items() if behind == number}
        if number == max(STAGES.values()):
            break
        print(f"reference deltas: round {number + 1} of {max(STAGES.values())}", flush=True)
        start = decode_weights(rounds.download(), layout)
        for member in cohort(sorted(rows), _GOAL, seed=0, number=number):
            trained = local_train(checkpoint.config, start, rows[member.phone], plan, seed=member.seed)
            rounds.take(encode(trained.delta, layout, FLOAT32, seed=0), trained.examples)
        rounds.close()
    return models


def _keep(file: Path, models: dict[str, Weights]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **models)
    partial.replace(file)


def _able(text: DemoText) -> dict[str, NDArray[np.int32]]:
    return {name: rows for name, rows in text.phones.items() if len(rows) >= _LEAST_EXAMPLES}


def _task() -> str:
    return arm_toml(FLOAT32, goal=_GOAL, rounds=max(STAGES.values()))


if __name__ == "__main__":
    found = reference_deltas()
    for stage, deltas in found.deltas.items():
        norms = [float(np.linalg.norm(delta)) for delta in deltas]
        print(f"{stage}: {len(deltas)} deltas, norms {min(norms):.3f} to {max(norms):.3f}")

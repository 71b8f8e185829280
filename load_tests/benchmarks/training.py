"""How fast simulated phones train: the worker pool on all cores, full softmax and candidates.

make bench
"""

import asyncio
import os
import statistics
import time
from typing import Final

import numpy as np

from benchmarks.page import Section, table, write
from keyflock_client_sim.cache_folder import user_cache_folder
from keyflock_client_sim.training.pool import WorkerPool, available_cores
from keyflock_client_sim.training.train_job import TrainJob
from keyflock_compression import DEFAULT_SPEC, encode_weights
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol.plans import TrainingPlan

#: The mean phone of the measurement that this one is compared with.
SEQUENCES: Final = 97
CLIENTS: Final = 12
ROUNDS: Final = 5


def main() -> None:
    """Measure and write the section."""
    rows = asyncio.run(measure())
    header = ("phones of 97 full sequences", "phones a second", "of full softmax")
    body = f"""{table(header, rows)}

{ModelConfig().parameter_count:,} parameters, one epoch, batches of 16, encoding with the default codec
included; one single-threaded process a core, {available_cores()} of them; median of {ROUNDS} runs of
{CLIENTS} phones.
"""
    write(Section("training", "How fast simulated phones train", "make bench", body))
    print(body)


async def measure() -> list[tuple[str, ...]]:
    """Measure phones a second, by objective."""
    config = ModelConfig()
    layout, rng = ParamLayout.for_config(config), np.random.default_rng(0)
    weights = (rng.standard_normal(layout.size) * 0.05).astype(np.float32)
    sequences = rng.integers(4, config.vocabulary_size, (SEQUENCES, 21)).astype(np.int32)
    async with WorkerPool.of_cores(compilation_cache=user_cache_folder(os.environ) / "xla") as pool:
        digest = pool.publish(encode_weights(weights, layout))
        rates = {}
        for name, candidates in (("full softmax", 0), ("candidate softmax, 1,000 words", 1_000)):
            plan = TrainingPlan(learning_rate=0.316, candidates=candidates)

            def job(seed: int, plan: TrainingPlan = plan) -> TrainJob:
                return TrainJob(
                    model=digest,
                    config=config,
                    sequences=sequences,
                    plan=plan,
                    codec=DEFAULT_SPEC.to_wire(),
                    seed=seed,
                )

            await asyncio.gather(*(pool.train(job(seed)) for seed in range(pool.workers)))
            times = []
            for _ in range(ROUNDS):
                began_s = time.perf_counter()
                await asyncio.gather(*(pool.train(job(seed)) for seed in range(CLIENTS)))
                times.append(time.perf_counter() - began_s)
            rates[name] = CLIENTS / statistics.median(times)
    base = rates["full softmax"]
    return [(name, f"{rate:.1f}", f"{rate / base:.2f}") for name, rate in rates.items()]


if __name__ == "__main__":
    main()

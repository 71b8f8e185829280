"""How long honest deltas are, in units of the server's own reference: over users, rounds, codecs and plans.

python -m tests.benchmarks.norm_scale [CORPUS.jsonl.gz]      (minutes)
"""

import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.corpora.splits import into_devices, take_public
from keyflock_client_sim.demo.starting_point import Untrained
from keyflock_client_sim.pretraining.kept import pretrained
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.train_job import local_training
from keyflock_compression import DEFAULT_SPEC, CodecSpec, decode, encode
from keyflock_models.arrays import F32, I32
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.local_training import LocalTrainingConfig, local_train
from keyflock_models.sequences import encode_messages
from keyflock_server.aggregation.bare_rounds import BareRounds
from keyflock_server.aggregation.reference_delta import drawn_text

ROUNDS: Final = 30
GOAL: Final = 20
MEASURED: Final = (0, 1, 5, 10, 20, 29)
CODECS: Final = {
    "float32": CodecSpec(codec="float32", entropy="none"),
    "default": DEFAULT_SPEC,
    "deadzone nmse 0.5": replace(DEFAULT_SPEC, target_nmse=0.5),
    "topk 1 %": CodecSpec(codec="topk", keep_ratio=0.01),
    "randmask 10 %": CodecSpec(codec="randmask", keep_ratio=0.1),
    "dense 1 bit": CodecSpec(codec="dense", bits=1),
}
#: The demo's, and what a task has that says nothing of it.
PLANS: Final = {
    "demo": "learning_rate = 0.6\ngradient_clip_norm = 1.0\ncandidates = 1000",
    "default": "learning_rate = 0.316227766",
}
TASK: Final = """[task]
name = "t"
population = "en"
[round]
goal = {goal}
[training]
{plan}
[codec]
codec = "float32"
entropy = "none"
[aggregation]
max_norm_ratio = 0.0
[optimizer]
name = "fedadam"
learning_rate = 0.015
eps = 1e-4
"""


def norm(delta: F32) -> float:
    return float(np.linalg.norm(delta.astype(np.float64)))


def of(start: Checkpoint, text: I32, training: LocalTrainingConfig, examples: int) -> F32:
    few = replace(training, max_examples=min(examples, training.max_examples))
    return local_train(start.config, start.weights, text, few, seed=0).delta


def study(start: Checkpoint, phones: dict[str, I32], anchor: I32, plan: str) -> None:
    layout = ParamLayout.of(start.config)
    rounds = BareRounds(TASK.format(goal=GOAL, plan=plan), start.weights, layout)
    training = local_training(rounds.plan)
    names, rng = sorted(phones), np.random.default_rng(7)
    drawn = drawn_text(start.vocabulary, 256, rounds.plan.sequence_length)
    first: dict[str, float] = {}
    for number in range(ROUNDS):
        now = replace(start, weights=rounds.weights)
        norms, sizes = defaultdict(list), []
        for at, name in enumerate(rng.choice(names, GOAL, replace=False)):
            seed = int(rng.integers(2**31))
            result = local_train(start.config, rounds.weights, phones[name], training, seed=seed)
            rounds.take(encode(result.delta, layout, CODECS["float32"], seed=0), result.examples)
            sizes.append(result.examples)
            if number in MEASURED:
                for label, spec in CODECS.items():
                    container = encode(result.delta, layout, spec, seed=at)
                    norms[label].append(decode(container, layout, spec=spec, seed=at).l2_norm)
        rounds.close()
        if number not in MEASURED:
            continue
        references = {
            f"{kind} {examples}": of(now, text, training, examples)
            for kind, text in (("anchor", anchor), ("drawn", drawn))
            for examples in (16, 32, 64, 128)
        }
        lengths = {label: norm(delta) for label, delta in references.items()}
        first = first or lengths
        whole = np.array(norms["float32"])
        low, mid, high = np.percentile(whole, (5, 50, 95))
        print(
            f"  round {number:2}: examples {np.median(sizes):.0f} ({min(sizes)}-{max(sizes)}), norms 5/50/95/max "
            f"{low:.3f} {mid:.3f} {high:.3f} {whole.max():.3f}, min {whole.min():.3f}; max/median {whole.max() / mid:.2f}"
        )
        print(
            "    references now   ",
            {label: round(mid / one, 2) for label, one in lengths.items()},
            "(median / it)",
        )
        print("    references first ", {label: round(mid / one, 2) for label, one in first.items()})
        ratios = {}
        for label, spec in CODECS.items():
            coded = decode(
                encode(references["drawn 64"], layout, spec, seed=1), layout, spec=spec, seed=1
            ).l2_norm
            ratios[label] = (
                round(float(np.median(norms[label])) / coded, 2),
                round(float(np.median(norms[label]) / mid), 2),
            )
        print("    codec: median / coded drawn 64, and / float32's", ratios, flush=True)


async def main(data: str) -> None:
    corpus = read_corpus(data)
    public, rest = take_public(corpus.users, 0.33, seed=0, group_of=corpus.group_of)
    config = ModelConfig.named("small")
    with tempfile.TemporaryDirectory() as folder:
        async with WorkerPool(1) as pool:
            order = PretrainingOrder(corpus=corpus.name, users=public[:-5], config=config, epochs=1.0)
            trained = await pretrained(order, pool, folder=Path(folder), clock=time.monotonic)
    for name, start in {"pretrained": trained, "untrained": Untrained(config, 0).checkpoint()}.items():
        vocabulary = start.vocabulary
        phones = {
            device.device: rows
            for user in rest
            for device in into_devices(user, 100, 2_000)
            if len(rows := encode_messages(vocabulary, device.messages, 20)) >= 8
        }
        anchor = np.concatenate([encode_messages(vocabulary, user.messages, 20) for user in public[-5:]])
        for plan, lines in PLANS.items():
            print(f"{corpus.name}, {len(phones)} phones, {name}, plan {plan}", flush=True)
            study(start, phones, anchor, lines)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "shakespeare"))

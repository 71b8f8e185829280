"""How long honest deltas are, in units of the server's own reference: over users, rounds, codecs and plans.

    python -m tests.benchmarks.norm_scale [CORPUS.jsonl.gz]

Some minutes. The reference is made once, of version 0, as the server does it. docs/decisions/0040 has the
figures.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import into_devices, take_public
from keyflock_client_sim.corpora.text import UserText
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
from keyflock_server.aggregation.clipping import DeltaJudge
from keyflock_server.aggregation.norm_histogram import NormHistogram
from keyflock_server.aggregation.norm_scale import NormScale, beginning_scales, scales_after_round
from keyflock_server.aggregation.reference_delta import drawn_text
from keyflock_server.aggregation.verdicts import Admitted
from keyflock_server.rounds.task import Aggregation

ROUNDS: Final = 30
GOAL: Final = 20
#: Rounds whose deltas are encoded in every codec.
MEASURED: Final = (0, 1, 5, 10, 20, 29)
REFERENCE_EXAMPLES: Final = 64
FLOAT32: Final = CodecSpec(codec="float32", entropy="none")
CODECS: Final = {
    "float32": FLOAT32,
    "default": DEFAULT_SPEC,
    "deadzone 0.5": replace(DEFAULT_SPEC, target_nmse=0.5),
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
[optimizer]
name = "fedadam"
learning_rate = 0.015
eps = 1e-4
"""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Phones' sequences, and public ones that no model was trained on."""

    phones: Mapping[str, I32]
    anchor: I32


def study(start: Checkpoint, fleet: Fleet, plan: str) -> None:
    """Print the ratios of honest norms to the reference, and what the default rules do to them."""
    layout = ParamLayout.of(start.config)
    rounds = BareRounds(TASK.format(goal=GOAL, plan=plan), start.weights, layout)
    training = local_training(rounds.plan)
    texts = {
        "anchor": fleet.anchor,
        "drawn": drawn_text(start.vocabulary, REFERENCE_EXAMPLES, rounds.plan.sequence_length),
    }
    codecs = {name: spec.to_wire() for name, spec in CODECS.items()}
    scales = {
        name: beginning_scales(_reference(start, rows, training), layout, codecs)
        for name, rows in texts.items()
    }
    judged = {name: Judged(one["float32"]) for name, one in scales.items()}
    medians: dict[str, list[float]] = {name: [] for name in CODECS}
    longest: list[float] = []
    names, rng = sorted(fleet.phones), np.random.default_rng(7)
    for number in range(ROUNDS):
        deltas = []
        for name in rng.choice(names, GOAL, replace=False):
            seed = int(rng.integers(2**31))
            result = local_train(start.config, rounds.weights, fleet.phones[name], training, seed=seed)
            rounds.take(encode(result.delta, layout, FLOAT32, seed=0), result.examples)
            deltas.append(result.delta)
        rounds.close()
        norms = [float(np.linalg.norm(one)) for one in deltas]
        longest.append(max(norms) / float(np.median(norms)))
        for one in judged.values():
            one.round(deltas, layout)
        if number in MEASURED:
            for name, spec in CODECS.items():
                sent = [
                    decode(encode(one, layout, spec, seed=at), layout, spec=spec, seed=at).l2_norm
                    for at, one in enumerate(deltas)
                ]
                medians[name].append(float(np.median(sent)))
    print(f"  longest of {GOAL} / median: {_range(longest)}")
    for name in CODECS:
        ratios = {
            text: _range([median / known[name].reference for median in medians[name]])
            for text, known in scales.items()
        }
        print(f"  {name}: median / reference {ratios}")
    for text, found in judged.items():
        print(f"  {text}: scale / reference in the end {found.scale.scale / found.scale.reference:.2f}")
        fates = f"clipped {found.clipped}, refused {found.refused}, thin {found.thin}"
        print(f"    of {found.reports} reports {fates}")
    sys.stdout.flush()


class Judged:
    """What the default rules say of honest reports, with a scale that follows them."""

    def __init__(self, scale: NormScale) -> None:
        self.scale = scale
        self.reports = self.clipped = self.refused = self.thin = 0

    def round(self, deltas: list[F32], layout: ParamLayout) -> None:
        """One round's reports."""
        norms = NormHistogram()
        judge = DeltaJudge(Aggregation(), {"codec": self.scale})
        for delta in deltas:
            said = judge.judge(decode(encode(delta, layout, FLOAT32, seed=0), layout), layout, "codec")
            self.reports += 1
            if isinstance(said, Admitted):
                self.clipped += said.scale < 1.0
                self.thin += said.is_thin
                if said.norm is not None:
                    norms.add("codec", said.norm)
            else:
                self.refused += 1
        self.scale = scales_after_round({"codec": self.scale}, norms)["codec"]


def _reference(start: Checkpoint, rows: I32, training: LocalTrainingConfig) -> F32:
    few = replace(training, max_examples=REFERENCE_EXAMPLES)
    return local_train(start.config, start.weights, rows, few, seed=0).delta


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _fleet(start: Checkpoint, users: tuple[UserText, ...], public: tuple[UserText, ...]) -> Fleet:
    phones = {
        device.device: rows
        for user in users
        for device in into_devices(user, 100, 2_000)
        if len(rows := encode_messages(start.vocabulary, device.messages, 20)) >= 8
    }
    anchor = [encode_messages(start.vocabulary, user.messages, 20) for user in public]
    return Fleet(phones, np.concatenate(anchor))


async def _pretrained(corpus: Corpus, public: tuple[UserText, ...], config: ModelConfig) -> Checkpoint:
    order = PretrainingOrder(corpus=corpus.name, users=public, config=config, epochs=1.0)
    with tempfile.TemporaryDirectory() as folder:
        async with WorkerPool(1) as pool:
            return await pretrained(order, pool, folder=Path(folder), clock=time.monotonic)


async def main(data: str) -> None:
    """Study a pre-trained and an untrained version 0, each under both plans."""
    corpus, config = read_corpus(data), ModelConfig.named("small")
    public, rest = take_public(corpus.users, 0.33, seed=0, group_of=corpus.group_of)
    starts = {
        "pretrained": await _pretrained(corpus, public[:-5], config),
        "untrained": Untrained(config, 0).checkpoint(),
    }
    for name, start in starts.items():
        fleet = _fleet(start, rest, public[-5:])
        for plan, lines in PLANS.items():
            print(f"{corpus.name}, {len(fleet.phones)} phones, {name}, plan {plan}")
            study(start, fleet, lines)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "shakespeare"))

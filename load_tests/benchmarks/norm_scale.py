"""How long honest deltas are, in units of the server's own reference: over users, rounds, codecs and plans.

    python -m benchmarks.norm_scale [CORPUS.jsonl.gz]

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

import msgspec
import numpy as np

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import into_devices, take_public
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.pretraining.checkpoint_cache import load_or_pretrain
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.train_job import local_training
from keyflock_client_sim.training_setup.starting_point import Untrained
from keyflock_compression import (
    DEFAULT_SPEC,
    CodecSpec,
    DenseSpec,
    Float32Spec,
    RandmaskSpec,
    TopkSpec,
    decode,
    encode,
)
from keyflock_models.arrays import F32, I32
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import encode_messages
from keyflock_models.training.local_training import LocalTrainingConfig, local_train
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.in_memory_training import InMemoryTraining
from keyflock_server.aggregation.norm_histogram import NormHistogram
from keyflock_server.aggregation.norm_scale import NormScale, initial_scales, scales_after_round
from keyflock_server.aggregation.reference_delta import drawn_text
from keyflock_server.aggregation.verdicts import AdmittedReport
from keyflock_server.rounds.task import Aggregation

ROUNDS: Final = 30
GOAL: Final = 20
#: Rounds whose deltas are encoded in every codec.
MEASURED: Final = (0, 1, 5, 10, 20, 29)
REFERENCE_EXAMPLES: Final = 64
FLOAT32: Final = Float32Spec(entropy="none")
CODECS: Final[dict[str, CodecSpec]] = {
    "float32": FLOAT32,
    "default": DEFAULT_SPEC,
    "deadzone 0.5": msgspec.structs.replace(DEFAULT_SPEC, target_nmse=0.5),
    "topk 1 %": TopkSpec(keep_ratio=0.01),
    "randmask 10 %": RandmaskSpec(keep_ratio=0.1),
    "dense 1 bit": DenseSpec(bits=1),
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
class PhoneTexts:
    """The phones' sequences, and public sequences that no model was trained on."""

    phones: Mapping[str, I32]
    anchor: I32


def study(start: Checkpoint, fleet: PhoneTexts, plan: str) -> None:
    """Print the ratios of honest norms to the reference, and what the default rules do to them."""
    layout = ParamLayout.for_config(start.config)
    rounds = InMemoryTraining(TASK.format(goal=GOAL, plan=plan), start.weights, layout)
    training = local_training(rounds.plan)
    texts = {
        "anchor": fleet.anchor,
        "drawn": drawn_text(start.vocabulary, REFERENCE_EXAMPLES, rounds.plan.sequence_length),
    }
    codecs = {name: spec.to_wire() for name, spec in CODECS.items()}
    scales = {
        name: initial_scales(_reference(start, rows, training), layout, codecs)
        for name, rows in texts.items()
    }
    verdict_counts = {name: VerdictCounts(one["float32"]) for name, one in scales.items()}
    medians: dict[str, list[float]] = {name: [] for name in CODECS}
    longest: list[float] = []
    names, rng = sorted(fleet.phones), np.random.default_rng(7)
    for number in range(ROUNDS):
        deltas = []
        for name in rng.choice(names, GOAL, replace=False):
            seed = int(rng.integers(2**31))
            result = local_train(start.config, rounds.weights, fleet.phones[name], training, seed=seed)
            rounds.add_report(encode(result.delta, layout, FLOAT32, seed=0), result.examples)
            deltas.append(result.delta)
        rounds.close_round()
        norms = [float(np.linalg.norm(one)) for one in deltas]
        longest.append(max(norms) / float(np.median(norms)))
        for one in verdict_counts.values():
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
    for text, found in verdict_counts.items():
        print(f"  {text}: scale / reference in the end {found.scale.scale / found.scale.reference:.2f}")
        counts = f"clipped {found.clipped}, refused {found.refused}, thin {found.thin}"
        print(f"    of {found.reports} reports {counts}")
    sys.stdout.flush()


class VerdictCounts:
    """Counts of the verdicts that the default rules give honest reports, with a scale that is updated."""

    def __init__(self, scale: NormScale) -> None:
        self.scale = scale
        self.reports = self.clipped = self.refused = self.thin = 0

    def round(self, deltas: list[F32], layout: ParamLayout) -> None:
        """Validate one round's reports and update the scale."""
        norms = NormHistogram()
        judge = DeltaValidator(Aggregation(), {"codec": self.scale})
        for delta in deltas:
            verdict = judge.validate(decode(encode(delta, layout, FLOAT32, seed=0), layout), layout, "codec")
            self.reports += 1
            if isinstance(verdict, AdmittedReport):
                self.clipped += verdict.scale < 1.0
                self.thin += verdict.is_thin
                if verdict.norm is not None:
                    norms.add("codec", verdict.norm)
            else:
                self.refused += 1
        self.scale = scales_after_round({"codec": self.scale}, norms)["codec"]


def _reference(start: Checkpoint, rows: I32, training: LocalTrainingConfig) -> F32:
    limited = replace(training, max_examples=REFERENCE_EXAMPLES)
    return local_train(start.config, start.weights, rows, limited, seed=0).delta


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _phone_texts(start: Checkpoint, users: tuple[UserText, ...], public: tuple[UserText, ...]) -> PhoneTexts:
    phones = {
        device.device: rows
        for user in users
        for device in into_devices(user, 100, 2_000)
        if len(rows := encode_messages(start.vocabulary, device.messages, 20)) >= 8
    }
    anchor = [encode_messages(start.vocabulary, user.messages, 20) for user in public]
    return PhoneTexts(phones, np.concatenate(anchor))


async def _pretrained(corpus: Corpus, public: tuple[UserText, ...], config: ModelConfig) -> Checkpoint:
    order = PretrainingSpec(corpus=corpus.name, users=public, config=config, epochs=1.0)
    with tempfile.TemporaryDirectory() as folder:
        async with WorkerPool(1) as pool:
            return await load_or_pretrain(order, pool, folder=Path(folder), clock=time.monotonic)


async def main(data: str) -> None:
    """Study a pre-trained and an untrained version 0, each under both plans."""
    corpus, config = read_corpus(data), ModelConfig.named("small")
    public, rest = take_public(corpus.users, 0.33, seed=0, group_of=corpus.group_of)
    starts = {
        "pretrained": await _pretrained(corpus, public[:-5], config),
        "untrained": Untrained(config, 0).checkpoint(),
    }
    for name, start in starts.items():
        fleet = _phone_texts(start, rest, public[-5:])
        for plan, lines in PLANS.items():
            print(f"{corpus.name}, {len(fleet.phones)} phones, {name}, plan {plan}")
            study(start, fleet, lines)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "shakespeare"))

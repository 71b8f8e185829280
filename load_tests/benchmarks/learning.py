"""How far it gets: federated rounds over HTTP against central training on the same phones' text.

    make bench-learning                       an hour at most; run again to go on where it was
    make bench-learning ARGS="--rounds 60"

Both begin at the same version 0 (pre-trained on public chat) and are measured on the same held-out phones.
The central run has all sequences in one place, for eight epochs at most: what a keyboard team would have if
everybody uploaded their text.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.page import PICTURES, Section, table, write
from keyflock_client_sim.training_setup.options import DemoOptions
from keyflock_client_sim.training_setup.text import DemoText, read_demo_text
from keyflock_models.evaluation.measures import Evaluation, evaluate
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.paired_bootstrap import paired_bootstrap
from keyflock_models.evaluation.trigram import KneserNeyTrigram
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_models.training.minibatches import Minibatches
from keyflock_models.training.pretraining import (
    PretrainingConfig,
    PretrainingState,
    begin_pretraining,
    pretrain_step,
)

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = Path(os.environ.get("KEYFLOCK_DATA", ROOT.parent / "shared" / "data"))
FOLDER: Final = ROOT / "results" / "learning"
STRETCH_ROUNDS: Final = 30
DEVICES: Final = 300
GOAL: Final = 60
#: Central training no longer improves after so many epochs; rounds go over the same text more often.
CENTRAL_EPOCHS: Final = 8
#: The learning rate is a seventh of pre-training's, because the model is no longer new.
CENTRAL: Final = PretrainingConfig(learning_rate=1.5e-3, batch_size=16, candidates=1_000)


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """Recall on all held-out phones by sequences seen."""

    sequences: list[float]
    at_1: list[float]
    at_3: list[float]


def main() -> None:
    """Run or go on, then write the section and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120, help="federated rounds in all (default 120)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="begin no further stretch after this long"
    )
    parser.add_argument("--pretrain-seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    sms, chat = DATA / "nus_sms_en.jsonl.gz", DATA / "ubuntu_irc.jsonl.gz"
    for file in (sms, chat):
        if not file.is_file():
            sys.exit(f"bench-learning needs {file.name} in {DATA}; name another folder by KEYFLOCK_DATA.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    began_at_s = time.monotonic()
    version_0 = pretrained(chat, arguments.pretrain_seconds)
    options = DemoOptions(data=str(sms), pretrain=str(version_0), devices=DEVICES, goal=GOAL)
    checkpoint = Checkpoint.from_bytes(version_0.read_bytes())
    text = DemoText.of(read_demo_text(options)[1], checkpoint.vocabulary)
    stretches = federated(options, arguments.rounds, began_at_s + 60.0 * arguments.minutes)
    report(checkpoint, text, stretches)


def pretrained(chat: Path, seconds: float) -> Path:
    """Return the path of version 0, which is made once."""
    path = FOLDER / "version_0.safetensors"
    if not path.exists():
        command = ["pretrain", "--data", str(chat), "--out", str(path), "--size", "medium"]
        run_sim(*command, "--seconds", str(seconds))
    return path


def federated(options: DemoOptions, rounds: int, deadline_s: float) -> list[dict[str, Any]]:
    """Run the demo in stretches over one folder, each a row in a file, and continue after the last one."""
    path = FOLDER / "federated.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    while sum(stretch["rounds"] for stretch in done) < rounds and time.monotonic() < deadline_s:
        output = run_sim(
            *("demo", "--data", options.data, "--pretrain", options.pretrain, "--json"),
            *("--devices", str(DEVICES), "--goal", str(GOAL), "--rounds", str(STRETCH_ROUNDS)),
            *("--keep", str(FOLDER / "federated")),
        )
        done.append(json.loads(output.splitlines()[-1]))
        with path.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"round {sum(one['rounds'] for one in done)}: recall@1 {100 * done[-1]['recall_at_1']:.2f} %")
    return done


def run_sim(*arguments: str) -> str:
    """Run ``keyflock-sim`` and return its standard output; progress goes to this terminal."""
    command = [str(Path(sys.executable).with_name("keyflock-sim")), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def central(checkpoint: Checkpoint, text: DemoText) -> tuple[Curve, Evaluation]:
    """Train with Adam on all phones' text in one place; return the curve by epochs, and the best of it."""
    rows = np.concatenate(list(text.phones.values()))
    batches = Minibatches(rows, batch_size=CENTRAL.batch_size, seed=0)
    epoch = len(rows) // CENTRAL.batch_size
    fresh = begin_pretraining(checkpoint.config, checkpoint.vocabulary, seed=0)
    layout = ParamLayout.for_config(checkpoint.config)
    params = {name: jnp.asarray(value) for name, value in layout.unflatten(checkpoint.weights).items()}
    state = PretrainingState(fresh.config, params, fresh.first_moment, fresh.second_moment, 0)
    curve, best = Curve([], [], []), measured(checkpoint, checkpoint.weights, text)
    for step in range(CENTRAL_EPOCHS * epoch):
        ratio = step / (CENTRAL_EPOCHS * epoch)
        state, _ = pretrain_step(state, batches.batch(step), CENTRAL, progress_ratio=ratio)
        if (step + 1) % epoch == 0:
            found = measured(checkpoint, state.weights, text)
            curve.sequences.append((step + 1) * CENTRAL.batch_size)
            curve.at_1.append(found.recall_at_1.micro)
            curve.at_3.append(found.recall_at_3.micro)
            print(f"central epoch {(step + 1) // epoch}: recall@1 {100 * found.recall_at_1.micro:.2f} %")
            best = max(best, found, key=lambda one: one.recall_at_1.micro)
    return curve, best


def measured(checkpoint: Checkpoint, weights: np.ndarray, text: DemoText) -> Evaluation:
    """Evaluate weights on all held-out phones."""
    return evaluate(NeuralScorer(checkpoint.config, weights, checkpoint.vocabulary), text.held_out.sequences)


def report(checkpoint: Checkpoint, text: DemoText, stretches: list[dict[str, Any]]) -> None:
    """Write the section of BENCHMARKS.md and its picture."""
    rounds = np.cumsum([stretch["rounds"] for stretch in stretches])
    reports = np.cumsum([stretch["reports_counted"] for stretch in stretches])
    mean_sequences = float(np.mean([min(len(rows), 256) for rows in text.phones.values()]))
    a_round = GOAL * mean_sequences
    phones_rows = np.concatenate(list(text.phones.values()))
    central_curve, central_best = central(checkpoint, text)
    held_out = text.held_out.sequences
    trigram = evaluate(KneserNeyTrigram.fit(phones_rows, checkpoint.vocabulary), held_out)
    unigram = evaluate(UnigramModel.fit(phones_rows, checkpoint.vocabulary), held_out)
    start = measured(checkpoint, checkpoint.weights, text)
    end, first = stretches[-1], stretches[0]

    def row(name: str, at_1: float, at_3: float) -> tuple[str, ...]:
        return name, f"{100 * at_1:.2f}", f"{100 * at_3:.2f}"

    rows = [
        row("version 0 (public chat)", start.recall_at_1.micro, start.recall_at_3.micro),
        row("unigram of the phones' text (central)", unigram.recall_at_1.micro, unigram.recall_at_3.micro),
        row("Kneser-Ney trigram of it (central)", trigram.recall_at_1.micro, trigram.recall_at_3.micro),
        row(
            "central Adam, best of eight epochs",
            central_best.recall_at_1.micro,
            central_best.recall_at_3.micro,
        ),
        row(f"**federated, {rounds[-1]} rounds**", end["recall_at_1"], end["recall_at_3"]),
    ]
    over_trigram = paired_bootstrap(central_best.recall_at_1, trigram.recall_at_1, seed=0)
    acked = sum(stretch["reports_acked"] for stretch in stretches)
    seconds = sum(stretch["seconds"] for stretch in stretches)
    passed = "" if end["recall_at_1"] > trigram.recall_at_1.micro else "not "
    body = f"""{table(("on held-out SMS phones", "recall@1 %", "recall@3 %"), rows)}

{len(text.phones)} SMS phones learn, {len(held_out)} held-out users are asked; rounds of {GOAL} reports;
{checkpoint.config.parameter_count:,} parameters (medium), pre-trained on #ubuntu chat. In points, with 95 %
intervals over users: federated over version 0, recall@1 {interval(end["gain_at_1"])} and recall@3
{interval(end["gain_at_3"])}; central training over the trigram, recall@1
{interval(dataclasses.asdict(over_trigram))}. Reports acknowledged {acked}, counted {reports[-1]};
{first["bytes_per_report"] / 1000:.1f} KB a report ({first["bits_per_parameter"]:.3f} bits a parameter);
{seconds:.0f} s of rounds and judging in all. The central trigram was {passed}passed by the rounds.

![recall by round](docs/pictures/learning.png)
"""
    draw(start, unigram, trigram, stretches, list(rounds), central_curve, a_round)
    write(Section("learning", "How far federation gets", "make bench-learning", body))


def interval(gain: dict[str, float]) -> str:
    """Return a gain with its interval, in points."""
    return f"{100 * gain['difference']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"


def draw(
    start: Evaluation,
    unigram: Evaluation,
    trigram: Evaluation,
    stretches: list[dict[str, Any]],
    rounds: list[int],
    central_curve: Curve,
    a_round: float,
) -> None:
    """Draw the picture."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, key in zip(panels, ("recall_at_1", "recall_at_3"), strict=True):
        begin = getattr(start, key).micro
        federated_points = [begin] + [stretch[key] for stretch in stretches]
        central_points = [begin, *(central_curve.at_1 if key == "recall_at_1" else central_curve.at_3)]
        panel.plot([0, *rounds], [100 * one for one in federated_points], "o-", label="federated")
        panel.plot(
            [0.0, *(one / a_round for one in central_curve.sequences)],
            [100 * one for one in central_points],
            "s--",
            label="central, by sequences seen",
        )
        panel.axhline(100 * getattr(trigram, key).micro, color="grey", ls="-", label="Kneser-Ney trigram")
        panel.axhline(100 * getattr(unigram, key).micro, color="grey", ls=":", label="unigram")
        panel.set_xlabel("rounds")
        panel.set_ylabel("%")
        panel.set_title(key.replace("_at_", "@") + " on held-out SMS phones")
        panel.grid(alpha=0.3)
    panels[0].legend(loc="best")
    figure.savefig(PICTURES / "learning.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()

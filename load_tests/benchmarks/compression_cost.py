"""What compression costs in recall: text messages, full-size network, no compression against three settings.

    make bench-compression                       twenty-five minutes at most; run again to go on where it was
    make bench-compression ARGS="--rounds 8 --seeds 1"    a quick look, which writes nothing

Needs the shared texts, or ``KEYFLOCK_DATA``. Version 0 has read chat; it is kept in the user's cache, and so
is every run. The last line that is printed is the default's difference to no compression, as JSON. Anybody's
own text and settings: ``keyflock-sim compression``.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Final

from benchmarks.page import PICTURES, Section, table, write
from keyflock_client_sim.console import make_console
from keyflock_client_sim.corpora.text import CorpusError
from keyflock_client_sim.experiments.compression.experiment import run
from keyflock_client_sim.experiments.compression.options import DEFAULT, CompressionError, CompressionOptions
from keyflock_client_sim.experiments.compression.report import (
    BASELINE,
    PLACES,
    CompressionCost,
    format_difference,
)
from keyflock_client_sim.training_setup.options import DemoError
from keyflock_models.evaluation.paired_bootstrap import Comparison

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = Path(os.environ.get("KEYFLOCK_DATA", ROOT.parent / "shared" / "data"))
ROUNDS: Final = 30
GOAL: Final = 24
SEEDS: Final = 3
#: How many points of recall@1 the default may cost.
ALLOWED_POINTS: Final = 0.2


def main() -> None:
    """Measure or go on, then write the section and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="full", help="of the network (default full)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of every run (default {ROUNDS})")
    parser.add_argument("--goal", type=int, default=GOAL, help=f"reports a round (default {GOAL})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"runs of each arm (default {SEEDS})")
    parser.add_argument("--fresh", action="store_true", help="make cached runs anew")
    arguments = parser.parse_args()
    sms, chat = DATA / "nus_sms_en.jsonl.gz", DATA / "ubuntu_irc.jsonl.gz"
    for file in (sms, chat):
        if not file.is_file():
            sys.exit(f"bench-compression needs {file.name} in {DATA}; name another folder by KEYFLOCK_DATA.")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    is_whole = arguments.rounds >= ROUNDS and arguments.seeds >= SEEDS
    try:
        options = CompressionOptions(
            data=str(sms),
            pretrain=str(chat),
            size=arguments.size,
            rounds=arguments.rounds,
            goal=arguments.goal,
            seeds=arguments.seeds,
            every=max(1, arguments.rounds // 5),
            is_fresh=arguments.fresh,
            picture=PICTURES / "compression.png" if is_whole else None,
        )
        found = asyncio.run(run(options, make_console(width=150)))
    except (CompressionError, CorpusError, DemoError) as error:
        sys.exit(f"bench-compression: {error}")
    body = section(found, options)
    if is_whole:
        write(Section("compression", "What compression costs in recall", "make bench-compression", body))
    print(body)
    print(json.dumps(last_line(found)))


def section(found: CompressionCost, options: CompressionOptions) -> str:
    """Return the section of BENCHMARKS.md."""
    header = ("arm", "recall@1 %", "points", "recall@3 %", "points", "KB a report", "bits a parameter")
    baseline_bytes = found.bytes_per_report(BASELINE)
    rows: list[tuple[str, ...]] = []
    for arm in found.runs:
        cells = [f"**{arm}**" if arm == DEFAULT else arm]
        for places in PLACES:
            cells.append(f"{100 * found.recall(arm, places).mean():.2f}")
            cells.append("" if arm == BASELINE else format_difference(found.loss(arm, places)))
        cells.append(f"{found.bytes_per_report(arm) / 1e3:.1f}")
        cells.append(f"{found.bits_per_parameter(arm):.3f}")
        cells.append(f"{baseline_bytes / found.bytes_per_report(arm):.0f} times")
        rows.append(tuple(cells))
    start = " and ".join(
        f"{100 * found.curve(BASELINE, places)[0, 0]:.2f} % (@{places})" for places in PLACES
    )
    refused = sum(found.refused(arm) for arm in found.runs)
    reports = sum(one.reports for runs in found.runs.values() for one in runs)
    return f"""{table((*header, "of float32"), rows)}

**{verdict(found.loss(DEFAULT, 1))}**

Recall of the version after {found.rounds[-1]} rounds of {found.goal} reports, mean over {found.users} users
none of whose phones trained ({found.words:,} words); version 0, which has read chat, has
{start}. {len(found.seeds)} runs of each arm over {found.phones} phones with
text messages, network of the size {options.size} ({found.parameters:,} parameters), the demo's task: in every
arm the same phones in the same order train with the same luck, and the server steps alike. *Points*: against
{BASELINE}, with 95 % intervals by paired bootstrap over users and runs. Every report is encoded, decoded and
summed by the code that phones and server run; {refused} of {reports:,} were too long for the server's bound.

![recall@1 by rounds and by bytes](docs/pictures/compression.png)
"""


def verdict(loss: Comparison) -> str:
    """Return a sentence: whether the default costs no more than is allowed, and how sure that is."""
    points, low = 100 * loss.difference, 100 * loss.low
    if low >= -ALLOWED_POINTS:
        finding = f"it costs no more than {ALLOWED_POINTS} points, interval and all"
    elif points >= -ALLOWED_POINTS:
        finding = f"it costs no more than {ALLOWED_POINTS} points, but the interval reaches further"
    else:
        finding = f"it costs more than {ALLOWED_POINTS} points"
    return f"Recall@1 of the default against no compression: {format_difference(loss)} points: {finding}."


def last_line(found: CompressionCost) -> dict[str, float | bool]:
    """Return the default's figures; points are of recall@1."""
    loss = found.loss(DEFAULT, 1)
    figures = {
        "difference_points": 100 * loss.difference,
        "low_points": 100 * loss.low,
        "high_points": 100 * loss.high,
        "bits_per_parameter": found.bits_per_parameter(DEFAULT),
        "bytes_per_report": found.bytes_per_report(DEFAULT),
    }
    is_allowed = figures["difference_points"] >= -ALLOWED_POINTS
    return {**{name: round(value, 4) for name, value in figures.items()}, "is_allowed": is_allowed}


if __name__ == "__main__":
    main()

"""Synchronous rounds against buffered asynchronous ones: time, reports and bytes to the same recall@3.

    make bench-modes

Text messages where they are (``KEYFLOCK_DATA``), the default corpus otherwise. Anybody's own text and fleet:
``keyflock-sim modes``.
"""

import asyncio
import logging
import math
import os
from pathlib import Path
from typing import Final

from benchmarks.page import PICTURES, Section, table, write
from keyflock_client_sim.console import make_console
from keyflock_client_sim.corpora.sources import SHAKESPEARE
from keyflock_client_sim.experiments.modes.experiment import run
from keyflock_client_sim.experiments.modes.options import ASYNC, MODES, SYNC, ModesOptions
from keyflock_client_sim.experiments.modes.report import (
    EFFORTS,
    SHARES,
    ModesComparison,
    Spread,
    format_spread,
    verdict,
)
from keyflock_client_sim.fleet.profiles import PROFILES, FleetProfile

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = Path(os.environ.get("KEYFLOCK_DATA", ROOT.parent / "shared" / "data"))


def main() -> None:
    """Measure and write the section."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.getLogger("keyflock").addHandler(logging.NullHandler())
    sms = DATA / "nus_sms_en.jsonl.gz"
    options = ModesOptions(data=str(sms) if sms.is_file() else SHAKESPEARE, picture=PICTURES / "modes.png")
    found = asyncio.run(run(options, make_console(width=150)))
    body = section(found, options)
    write(Section("modes", "Synchronous or asynchronous", "make bench-modes", body))
    print(body)


def section(found: ModesComparison, options: ModesOptions) -> str:
    """Return the section of BENCHMARKS.md."""
    rows: list[tuple[str, ...]] = []
    for share in SHARES:
        target = f"{100 * found.target(share):.2f} % ({share:.0%} of the gain)"
        for mode in MODES:
            efforts = (format_spread(Spread.of(found.effort(mode, name, share))) for name in EFFORTS)
            rows.append((target, mode, *efforts))
        rows.append(
            (target, "**async / sync**", *(format_spread(found.ratio(name, share), 2) for name in EFFORTS))
        )
    header = ("to recall@3", "", "virtual hours", "reports in the model", "trainings begun", "MB uploaded")
    return f"""{table(header, rows)}

**{verdict(found)}**

{_what(found, options)}
{_fleet(PROFILES[options.profile])}
{_modes(options)}
{_rates(found, options)}

![recall by hours and by reports](docs/pictures/modes.png)
"""


def _what(found: ModesComparison, options: ModesOptions) -> str:
    text = "the default corpus" if options.data == SHAKESPEARE else "text messages"
    start = f"{100 * found.start:.2f} %"
    ends = {
        mode: format_spread(Spread.of([100 * run.end_recall for run in found.runs[mode]]), 2)
        for mode in MODES
    }
    return f"""Mean [least, most] of {len(found.runs[SYNC])} fleets of the same phones with {text}; real local
training of the size {options.size}; recall@3 on phones that took no part: {start} at version 0,
after {options.hours:g} hours {ends[SYNC]} sync and {ends[ASYNC]} async. *Trainings begun*: phones that were
given work, whatever came of it."""


def _fleet(fleet: FleetProfile) -> str:
    slowest = math.exp(2.326 * fleet.speed_spread)
    return f"""Speeds are lognormal with a spread of {fleet.speed_spread:g}: one phone in a hundred takes
{slowest:.0f} times as long as the median, which takes {fleet.seconds_per_example:g} s for a sequence; with
other phones all hours stretch alike. {fleet.drop_out_share:.0%} of trainings are interrupted, half of them
silently."""


def _modes(options: ModesOptions) -> str:
    return f"""{options.concurrency} phones train at once in both modes. Sync: {options.goal} reports a round,
{options.over_selection:.0%} over-selection, a deadline of {options.sync_deadline_s:g} s. Async: a version
every {options.buffer} reports, weights 1/sqrt(1 + staleness) up to {options.max_staleness} versions,
assignments good for {options.async_deadline_s:g} s."""


def _rates(found: ModesComparison, options: ModesOptions) -> str:
    def tried(mode: str) -> str:
        recalls = ", ".join(f"{rate:g} {100 * recall:.2f} %" for rate, recall in found.trials[mode].items())
        return f"{mode} took {found.runs[mode][0].rate:g} ({recalls})"

    return f"""FedAdam in both, at the rate with the highest mean recall@3 over
{options.trial_ratio * options.hours:g} hours of another fleet: {tried(SYNC)};
{tried(ASYNC)}."""


if __name__ == "__main__":
    main()

"""This module prints the table of what personalisation gives; the JSON is `PersonalisationResult.summary`."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from keyflock_client_sim.experiments.personalisation.arms import BLEND, FROZEN, GLOBAL, PRODUCT
from keyflock_client_sim.experiments.personalisation.results import HARM_POINTS, PersonalisationResult

#: The arms of the short table; the others are ablations.
_SHORT: Final = (GLOBAL, "head alone", "n-gram alone", BLEND, FROZEN, PRODUCT)
_COLUMNS: Final = ("model", "recall@1", "recall@3", "of global", "all words @3", "MRR@10", "ppl", "KSR")


def print_summary(found: PersonalisationResult, console: Console) -> None:
    """Print what personalisation gave, in one table of six rows."""
    _print_table(found, console, f"each of {len(found.users)} users, on their own later text", _SHORT, 4)
    _print_gain(found, console)
    _print_harm(found, console)


def print_report(found: PersonalisationResult, console: Console, *, title: str) -> None:
    """Print every arm, then what it means for users."""
    arms = [GLOBAL, *(arm for arm in found.users[0].arms if arm not in {GLOBAL, PRODUCT, FROZEN, BLEND})]
    arms += [BLEND, FROZEN, PRODUCT]
    _print_table(found, console, f"{title} (means over users)", arms, len(_COLUMNS))
    _print_gain(found, console)
    _print_harm(found, console)
    _print_cost(found, console)


def _print_table(
    found: PersonalisationResult, console: Console, title: str, arms: Sequence[str], columns: int
) -> None:
    table = Table(title=title)
    for column in _COLUMNS[:columns]:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for arm in arms:
        table.add_row(*_row(found, arm)[:columns], style="bold" if arm in {GLOBAL, PRODUCT} else "")
    console.print(table)


def _print_gain(found: PersonalisationResult, console: Console) -> None:
    gain, interval = found.gain(), found.compared()
    p5, p50, p95 = np.percentile(gain, [5, 50, 95])
    console.print(
        f"gain of the product   recall@3 {100 * interval.difference:+.2f} points "
        f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}] a user, "
        f"{100 * found.relative_gain():+.1f} % "
        f"(95 % paired bootstrap over users); p5 {p5:+.2f}, p50 {p50:+.2f}, p95 {p95:+.2f}",
        soft_wrap=True,
    )


def _print_harm(found: PersonalisationResult, console: Console) -> None:
    console.print(
        f"do no harm            gate open for {100 * found.share_open:.0f} % of {len(found.users)} users; "
        f"hurt with evidence {100 * found.share_hurt:.1f} %, lower by {HARM_POINTS} points or more, chance "
        f"included, {100 * found.share_lower:.1f} %",
        soft_wrap=True,
    )


def _print_cost(found: PersonalisationResult, console: Console) -> None:
    milliseconds = float(np.median([user.ms_per_word for user in found.users]))
    sizes = np.array([user.state_bytes for user in found.users])
    console.print(
        f"cost                  {np.median(sizes) / 1e3:.1f} kB stored (median user; at most "
        f"{sizes.max() / 1e3:.1f}), {milliseconds:.2f} ms a word to judge and learn besides the trunk; "
        f"a head was kept by {100 * np.mean([user.has_head for user in found.users]):.0f} % of users",
        soft_wrap=True,
    )


def _row(found: PersonalisationResult, arm: str) -> tuple[str, ...]:
    at_1, at_3 = found.measure(arm, "at_1"), found.measure(arm, "at_3")
    nll, strokes = found.measure(arm, "nll").micro, found.measure(arm, "strokes")
    saved = "" if not strokes.numerator.any() else f"{100 * (1 - strokes.micro):.1f} %"
    return (
        arm,
        f"{100 * at_1.mean:.2f} %",
        f"{100 * at_3.mean:.2f} %",
        f"{100 * found.relative_gain(arm):+.1f} %",
        f"{100 * at_3.micro:.2f} %",
        f"{100 * found.measure(arm, 'reciprocal_rank').mean:.2f} %",
        "" if np.isnan(nll) else f"{np.exp(nll):.0f}",
        saved,
    )

"""The last page says whether recall has risen, against which baselines, and whether report counts agree."""

from rich.console import Console
from rich.table import Table

from keyflock_client_sim.demo.result import DemoResult, Recall
from keyflock_client_sim.demo.table import byte_size, percent
from keyflock_client_sim.experiments.personalisation.report import print_summary
from keyflock_models.evaluation.paired_bootstrap import Comparison


def print_verdict(result: DemoResult, console: Console) -> None:
    """Print the comparison with the baselines, the upload's size and the report counts."""
    table = Table(title=f"on {result.held_out_devices} phones that took no part")
    for column in ("model", "recall@1", "recall@3"):
        table.add_column(column, justify="left" if column == "model" else "right")
    rows: tuple[tuple[str, Recall, str], ...] = (
        ("unigram on all text in one place", result.unigram, ""),
        ("Kneser-Ney trigram on all text in one place", result.trigram, ""),
        ("version 0: what phones started from", result.start, ""),
        (f"version {result.rounds[-1].version}: after {len(result.rounds)} rounds", result.end, "bold"),
    )
    for name, recall, style in rows:
        table.add_row(name, percent(recall.at_1), percent(recall.at_3), style=style)
    console.print(table)
    console.print(
        f"gain over version 0   recall@1 {_points(result.gain_at_1)}   recall@3 {_points(result.gain_at_3)}"
        "   (95 % paired bootstrap over users)",
        soft_wrap=True,
    )
    console.print(
        f"upload                {byte_size(result.bytes_per_report)} a report against "
        f"{byte_size(result.fp32_bytes)} in float32: "
        f"{result.bits_per_parameter:.3f} bits a parameter{_nmse(result)}",
        soft_wrap=True,
    )
    equal = result.reports_acked == result.reports_counted
    console.print(
        f"books                 {result.reports_acked:,} reports acknowledged, "
        f"{result.reports_counted:,} counted: {'they agree' if equal else 'they differ'}",
        style=None if equal else "bold red",
    )
    sentence, style = _judgement(result.gain_at_1)
    console.print(sentence, style=style, soft_wrap=True)
    if result.personal is not None:
        print_summary(result.personal, console)
    else:
        console.print("personal models were not measured: no held-out phone has enough words", soft_wrap=True)


def _judgement(gain: Comparison) -> tuple[str, str]:
    """Return what the gain over version 0 means, and its style."""
    if gain.low > 0:
        return "The phones learned.", "bold green"
    if gain.high < 0:
        lost = f"recall@1 fell by {-100 * gain.difference:.2f} points, and its whole interval is below zero"
        return f"The phones made the model worse: {lost}. More reports a round (--goal) may help.", "bold red"
    return "The gain is not clear of zero; more rounds (--rounds) would show.", "bold yellow"


def _points(gain: Comparison) -> str:
    return f"{100 * gain.difference:+.2f} points [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


def _nmse(result: DemoResult) -> str:
    return "" if result.cohort_nmse is None else f", error of a round's mean (NMSE) {result.cohort_nmse:.3f}"

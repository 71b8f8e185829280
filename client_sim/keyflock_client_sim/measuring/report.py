"""This module reports measured models beside each other, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from keyflock_models.evaluation.keystrokes import KeystrokeSavings
from keyflock_models.evaluation.measures import Evaluation
from keyflock_models.evaluation.paired_bootstrap import Comparison, paired_bootstrap

#: Measures in the order of a table, with their titles; all but perplexity in percent.
MEASURES: Mapping[str, str] = {
    "recall_at_1": "recall@1",
    "recall_at_3": "recall@3",
    "mrr_at_10": "MRR@10",
    "acc_masked": "acc",
    "oov_rate": "OOV",
    "perplexity": "ppl",
    "keystrokes_saved": "KSR",
}


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredModel:
    """One model's figures on the users of a report."""

    name: str
    evaluation: Evaluation
    savings: KeystrokeSavings | None = None

    def summary(self) -> dict[str, dict[str, float]]:
        """Return micro, user mean, p5, p50 and p95 by measure."""
        summary = self.evaluation.summary()
        if self.savings is not None:
            summary["keystrokes_saved"] = self.savings.all.summary()
            summary["keystrokes_saved_before_typing"] = self.savings.before_typing.summary()
        return summary


def compare(candidate: MeasuredModel, baseline: MeasuredModel, *, seed: int) -> dict[str, Comparison]:
    """Return the candidate's gain in recall, with 95 % intervals by paired bootstrap over users."""
    return {
        measure: paired_bootstrap(
            getattr(candidate.evaluation, measure), getattr(baseline.evaluation, measure), seed=seed
        )
        for measure in ("recall_at_1", "recall_at_3")
    }


def as_json(
    models: Sequence[MeasuredModel], comparisons: Mapping[str, Mapping[str, Comparison]]
) -> dict[str, object]:
    """Return the whole report as plain values.

    Args:
        models: The measured models, the one that the report is about first.
        comparisons: Of the first model, by the name of the other.
    """
    return {
        "users": len(models[0].evaluation.users),
        "words": int(models[0].evaluation.recall_at_1.denominator.sum()),
        "models": {model.name: model.summary() for model in models},
        "gains": {
            name: {measure: asdict(comparison) for measure, comparison in gains.items()}
            for name, gains in comparisons.items()
        },
    }


def print_report(
    models: Sequence[MeasuredModel],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    console: Console,
    *,
    counted_text: str,
) -> None:
    """Print the report.

    Args:
        models: The measured models, the one that the report is about first.
        comparisons: Of the first model, by the name of the other.
        console: The console to print to.
        counted_text: A description of the text that the baselines counted.
    """
    first = models[0]
    words = int(first.evaluation.recall_at_1.denominator.sum())
    console.print(
        _beside_each_other(
            models, f"{len(first.evaluation.users)} held-out users, {words:,} words, in percent"
        )
    )
    console.print(_over_users(first))
    for name, gains in comparisons.items():
        texts = (f"{MEASURES[measure]} {_points(gain)}" for measure, gain in gains.items())
        console.print(f"{first.name} against {name}: {', '.join(texts)} (95 % paired bootstrap over users)")
    console.print(f"Baselines counted {counted_text}.", style="dim")


def _beside_each_other(models: Sequence[MeasuredModel], title: str) -> Table:
    table = Table(title=title)
    table.add_column("model")
    summaries = [model.summary() for model in models]
    measures = [measure for measure in MEASURES if any(measure in summary for summary in summaries)]
    for measure in measures:
        table.add_column(MEASURES[measure], justify="right")
    for model, summary in zip(models, summaries, strict=True):
        cells = (
            _cell(measure, summary[measure]["micro"]) if measure in summary else "" for measure in measures
        )
        table.add_row(model.name, *cells)
    return table


def _over_users(model: MeasuredModel) -> Table:
    table = Table(title=f"{model.name}, over users, in percent")
    for column in ("measure", "all words", "user mean", "p5", "p50", "p95"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    summary = model.summary()
    for measure, title in MEASURES.items():
        if measure in summary:
            figures = (summary[measure][statistic] for statistic in ("micro", "mean", "p5", "p50", "p95"))
            table.add_row(title, *(_cell(measure, figure) for figure in figures))
    return table


def _cell(measure: str, figure: float) -> str:
    return f"{figure if measure == 'perplexity' else 100 * figure:.2f}"


def _points(gain: Comparison) -> str:
    return f"{100 * gain.difference:+.2f} points [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"

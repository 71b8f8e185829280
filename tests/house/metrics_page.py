"""``make docs``: docs/metrics.md from the declared series; ``test_metrics_page`` compares the two."""

from pathlib import Path
from typing import Final

from keyflock_server.telemetry.series import SECTIONS, SERIES
from keyflock_server.telemetry.series.declaration import DeclaredSeries, IdKind, Label, SeriesKind

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"

_MARK: Final = "<!-- from here on written by `make docs` -->\n"


def page() -> str:
    """Return the page: its beginning as it is, and the tables anew."""
    beginning = PAGE.read_text(encoding="utf-8").split(_MARK)[0]
    sections = (_section(title, series) for title, series in SECTIONS.items())
    return "\n".join((beginning + _MARK, *sections, _labels()))


def _section(title: str, series: tuple[DeclaredSeries, ...]) -> str:
    rows = (f"| `{one.name}` | {one.kind} | {_names(one)} | {_meaning(one)} |" for one in series)
    return "\n".join(
        (f"## {title}\n", "| series | kind | labels | what it is |", "|---|---|---|---|", *rows, "")
    )


def _names(series: DeclaredSeries) -> str:
    return ", ".join(f"`{name}`" for name in series.label_names)


def _meaning(series: DeclaredSeries) -> str:
    if series.kind is not SeriesKind.HISTOGRAM:
        return series.doc
    return f"{series.doc} Buckets up to {', '.join(_number(bound) for bound in series.buckets)}."


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def _labels() -> str:
    rows = []
    for name in sorted({label.name for series in SERIES for label in series.labels}):
        with_it: dict[Label, list[str]] = {}
        for series in SERIES:
            for label in series.labels:
                if label.name == name:
                    with_it.setdefault(label, []).append(f"`{series.name}`")
        for label, names in with_it.items():
            rows.append(f"| `{name}` | {', '.join(names)} | {_values(label)} |")
    return "\n".join(("## Labels\n", "| label | of | values |", "|---|---|---|", *rows, ""))


def _values(label: Label) -> str:
    match label.ids_of:
        case IdKind.TASK:
            return f"the task's id; at most {label.max_ids}"
        case IdKind.POPULATION:
            return f"the population's id; at most {label.max_ids}"
        case None if label.name == "call":
            return "the names of the calls, or `unrouted`"
        case None if label.name == "code":
            return "the codes of problem documents ([protocol.md](protocol.md))"
        case None:
            return ", ".join(f"`{value}`" for value in label.values)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

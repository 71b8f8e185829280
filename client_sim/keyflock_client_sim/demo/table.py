"""This module formats the table of rounds, line by line, for a terminal, a pipe or a log."""

from typing import Final

from keyflock_client_sim.demo.result import FLOAT32_BYTES, Recall, RoundRow

HEADER: Final = " round  reports  drop-outs  recall@1  recall@3   up/report   of fp32  seconds"
_NOTHING: Final = "-"


def start_line(recall: Recall) -> str:
    """Return the row of version 0."""
    return _line(0, _NOTHING, _NOTHING, recall, _NOTHING, _NOTHING, _NOTHING)


def round_line(row: RoundRow, parameters: int) -> str:
    """Return the row of one round."""
    return _line(
        row.sequence,
        str(row.reports),
        str(row.drop_outs),
        row.recall,
        byte_size(row.bytes_per_report),
        f"{100 * row.bytes_per_report / (FLOAT32_BYTES * parameters):.2f} %",
        f"{row.seconds:.1f}",
    )


def byte_size(size_bytes: float) -> str:
    """Format a number of bytes."""
    if size_bytes >= 1e6:
        return f"{size_bytes / 1e6:.2f} MB"
    return f"{size_bytes / 1e3:.1f} kB"


def percent(ratio: float) -> str:
    """Format a share in percent."""
    return f"{100 * ratio:.2f} %"


def _line(
    sequence: int,
    reports: str,
    drop_outs: str,
    recall: Recall | None,
    size: str,
    ratio: str,
    seconds: str,
) -> str:
    at_1, at_3 = (percent(recall.at_1), percent(recall.at_3)) if recall else (_NOTHING, _NOTHING)
    return f"{sequence:6}{reports:>9}{drop_outs:>11}{at_1:>10}{at_3:>10}{size:>12}{ratio:>10}{seconds:>9}"

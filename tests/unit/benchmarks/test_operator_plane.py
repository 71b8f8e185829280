"""The benchmark of the operator plane compares pairs of one run, and runs from end to end."""

import json

import pytest

from benchmarks.one_connection import LoopCost
from benchmarks.operator_plane import (
    CHANGED,
    KEPT,
    KEPT_TLS,
    NEW,
    NEW_TLS,
    READ,
    OperatorPlaneFigures,
    RunSizes,
    measure,
    section,
)
from keyflock_load_tests.cores import Cores


def costs(*cpu_ms: float) -> list[LoopCost]:
    return [LoopCost(per_s=1_000.0 / one, cpu_ms=one) for one in cpu_ms]


def test_ratios_are_medians_of_what_one_run_has_measured_side_by_side() -> None:
    figures = OperatorPlaneFigures(
        {
            READ: costs(1.0, 1.0, 4.0),
            CHANGED: costs(2.0, 3.0, 8.0),
            KEPT: costs(1.0, 1.0, 1.0),
            KEPT_TLS: costs(1.25, 1.5, 1.0),
            NEW: costs(2.0, 2.0, 2.0),
            NEW_TLS: costs(3.0, 4.0, 3.5),
        },
        syncs_per_s=1_000.0,
    )

    line = figures.line()

    assert line["write_cpu_over_read"] == 2.0
    assert line["audited_writes_per_s"] == pytest.approx(333.3)
    assert line["write_over_syncs"] == 0.333
    assert (line["tls_kept_cpu_ratio"], line["tls_new_cpu_ratio"]) == (1.25, 1.75)
    assert line["handshake_cpu_ms"] == 1.5


@pytest.mark.slow
def test_a_tiny_run_finds_an_audit_entry_of_each_change_and_ends_with_its_line() -> None:
    sizes, cores = RunSizes(runs=1, seconds=0.2), Cores.chosen()

    figures = measure(sizes, cores)

    line = json.loads(json.dumps(figures.line()))
    assert line["changes"] == line["audited"] > 0
    assert all(one.per_s > 0 for runs in figures.runs.values() for one in runs)
    assert "over TLS, new connection" in section(figures, sizes, cores)

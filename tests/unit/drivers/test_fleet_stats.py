"""A fleet's stats, and their page."""

import io
import json
from collections.abc import Callable
from typing import Any

from rich.console import Console

from keyflock_client_sim.device.device_events import (
    AssignmentEnded,
    AssignmentReceived,
    CallFailed,
    CheckInRefused,
    DeviceEvent,
    EndReason,
    ReportAcked,
)
from keyflock_client_sim.drivers.fleet_stats import FleetEvent, FleetStats
from keyflock_client_sim.drivers.fleet_stats_page import status_line, summary_table
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason, ReturnWindow

MakeCrew = Callable[..., Any]
ROUND = RoundId("t-1")


def _stats(crew: MakeCrew) -> FleetStats:
    stats = FleetStats(crew(3).phones)
    acked = ReportAcked(
        round=ROUND,
        model_version=ModelVersion(3),
        examples=5,
        delta_bytes=1_500,
        loss_before=5.0,
        loss_after=4.0,
        is_duplicate=True,
        session_shape="-v[]+^",
    )
    ended = AssignmentEnded(
        round=ROUND, reason=EndReason.ROUND_OVER, detail="round_gone", session_shape="-v[]+#"
    )
    events: list[DeviceEvent] = [
        CheckInRefused(RefusalReason.NOT_SAMPLED, ReturnWindow(min_s=7_200.0, max_s=9_000.0)),
        AssignmentReceived(TaskName("t"), ROUND, ModelVersion(3)),
        CallFailed("report", "lost"),
        acked,
        AssignmentReceived(TaskName("t"), RoundId("t-2"), ModelVersion(4)),
        ended,
    ]
    for at_s, event in enumerate(events):
        stats.record(FleetEvent("phone-1", float(at_s), event))
    return stats


def test_what_happens_is_counted(crew: MakeCrew) -> None:
    stats = _stats(crew)

    assert (stats.assigned, stats.reports_acked, stats.duplicates, stats.rounds_closed) == (2, 1, 1, 1)
    assert stats.acked_by_round == {"t-1": 1}
    assert stats.rejected == {"not_sampled": 1}
    assert stats.no_more_tasks == 0
    assert stats.endings == {"gone": 1}
    assert stats.call_errors == {"report: lost": 1}
    assert stats.session_shapes == {"-v[]+^": 1, "-v[]+#": 1}
    assert stats.now_s == 5.0


def test_a_round_without_a_version_closes_too(crew: MakeCrew) -> None:
    stats = FleetStats(crew(3).phones)

    for number in range(3):
        for _ in range(2):
            assigned = AssignmentReceived(TaskName("personalise"), RoundId(f"p-{number}"), ModelVersion(7))
            stats.record(FleetEvent("phone-1", 0.0, assigned))

    assert (stats.rounds_closed, stats.versions_made) == (2, 0)


def test_the_summary_is_one_json_object(crew: MakeCrew) -> None:
    summary = json.loads(json.dumps(_stats(crew).summary()))

    assert summary["bytes_per_report"] == 1_500.0
    assert summary["session_shapes"] == {"-v[]+^": 1, "-v[]+#": 1}


def test_books_of_a_fleet_that_did_nothing_have_no_bytes_per_report(crew: MakeCrew) -> None:
    assert FleetStats(crew(3).phones).summary()["bytes_per_report"] is None


def test_the_page_shows_session_shapes_as_they_are(crew: MakeCrew) -> None:
    console = Console(file=io.StringIO(), width=100)

    console.print(summary_table(_stats(crew)))

    page = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above
    assert "-v[]+^" in page
    assert "50.0%" in page
    assert "1.5 kB" in page


def test_the_line_says_where_phones_are(crew: MakeCrew) -> None:
    assert status_line(_stats(crew)) == ("5 s · model 4 · 1 reports acked · 0 B up, 0 B down · 3 unenrolled")


def test_the_pause_between_two_rounds_is_not_the_end_of_the_task(crew: MakeCrew) -> None:
    stats = FleetStats(crew(3).phones)

    for min_s in (60.0, 3_600.0):
        window = ReturnWindow(min_s=min_s, max_s=2 * min_s)
        stats.record(FleetEvent("phone-1", 0.0, CheckInRefused(RefusalReason.NO_ACTIVE_TASK, window)))

    assert stats.rejected == {"no_active_task": 2}
    assert stats.no_more_tasks == 1

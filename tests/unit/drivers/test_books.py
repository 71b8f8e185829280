"""A fleet's books, and their page."""

import io
import json
from collections.abc import Callable
from typing import Any

from rich.console import Console

from keyflock_client_sim.device.notices import Acked, Assigned, Ended, Ending, Notice, Troubled, TurnedAway
from keyflock_client_sim.drivers.books import Books, Happening
from keyflock_client_sim.drivers.books_page import line, table
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason, ReturnWindow

MakeCrew = Callable[..., Any]
ROUND = RoundId("t-1")


def _books(crew: MakeCrew) -> Books:
    books = Books(crew(3).phones)
    acked = Acked(
        round=ROUND,
        model_version=ModelVersion(3),
        examples=5,
        delta_bytes=1_500,
        loss_before=5.0,
        loss_after=4.0,
        is_duplicate=True,
        session_shape="-v[]+^",
    )
    ended = Ended(round=ROUND, ending=Ending.GONE, detail="round_gone", session_shape="-v[]+#")
    notices: list[Notice] = [
        TurnedAway(RefusalReason.NOT_SAMPLED, ReturnWindow(min_s=7_200.0, max_s=9_000.0)),
        Assigned(TaskName("t"), ROUND, ModelVersion(3)),
        Troubled("report", "lost"),
        acked,
        Assigned(TaskName("t"), RoundId("t-2"), ModelVersion(4)),
        ended,
    ]
    for at_s, notice in enumerate(notices):
        books.enter(Happening("phone-1", float(at_s), notice))
    return books


def test_what_happens_is_counted(crew: MakeCrew) -> None:
    books = _books(crew)

    assert (books.assigned, books.reports_acked, books.duplicates, books.rounds_closed) == (2, 1, 1, 1)
    assert books.acked_by_round == {"t-1": 1}
    assert books.turned_away == {"not_sampled": 1}
    assert books.sent_home == 0
    assert books.endings == {"gone": 1}
    assert books.troubles == {"report: lost": 1}
    assert books.session_shapes == {"-v[]+^": 1, "-v[]+#": 1}
    assert books.now_s == 5.0


def test_a_round_without_a_version_closes_too(crew: MakeCrew) -> None:
    books = Books(crew(3).phones)

    for number in range(3):
        for _ in range(2):
            assigned = Assigned(TaskName("personalise"), RoundId(f"p-{number}"), ModelVersion(7))
            books.enter(Happening("phone-1", 0.0, assigned))

    assert (books.rounds_closed, books.versions_made) == (2, 0)


def test_the_summary_is_one_json_object(crew: MakeCrew) -> None:
    summary = json.loads(json.dumps(_books(crew).summary()))

    assert summary["bytes_per_report"] == 1_500.0
    assert summary["session_shapes"] == {"-v[]+^": 1, "-v[]+#": 1}


def test_books_of_a_fleet_that_did_nothing_have_no_bytes_per_report(crew: MakeCrew) -> None:
    assert Books(crew(3).phones).summary()["bytes_per_report"] is None


def test_the_page_shows_session_shapes_as_they_are(crew: MakeCrew) -> None:
    console = Console(file=io.StringIO(), width=100)

    console.print(table(_books(crew)))

    page = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above
    assert "-v[]+^" in page
    assert "50.0%" in page
    assert "1.5 kB" in page


def test_the_line_says_where_phones_are(crew: MakeCrew) -> None:
    assert line(_books(crew)) == ("5 s · model 4 · 1 reports acked · 0 B up, 0 B down · 3 unenrolled")


def test_the_pause_between_two_rounds_is_not_the_end_of_the_task(crew: MakeCrew) -> None:
    books = Books(crew(3).phones)

    for min_s in (60.0, 3_600.0):
        window = ReturnWindow(min_s=min_s, max_s=2 * min_s)
        books.enter(Happening("phone-1", 0.0, TurnedAway(RefusalReason.NO_ACTIVE_TASK, window)))

    assert books.turned_away == {"no_active_task": 2}
    assert books.sent_home == 1

"""The judge is judged: a fault that is planted is found, and one fault does not hide another."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.recovery.books import Aggregate, Books, Row, read_books
from tests.recovery.judge import Verdict, judge
from tests.recovery.leavers import COORDINATES, Departure, Life, wrongly_counted
from tests.recovery.marks import LAYOUT, ROUND_GOAL
from tests.unit.coordinator.town import Town, report

from keyflock_server.coordinator.micro_batch import PendingSum
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.storage.blobs import LocalBlobs
from keyflock_server.storage.sql.store import SqlStore

ONE, TWO = RoundId("t-1"), RoundId("t-2")
CLEAN = [Row(phone, ONE, ONE, 1.0) for phone in (0, 1, 2)] + [Row(0, TWO, TWO, 1.0)]
ACKED = {(row.phone, row.assigned_in) for row in CLEAN}
SUMS = {ONE: (1.0, 1.0, 1.0), TWO: (1.0, 0.0, 0.0)}


def said_of(
    *,
    rows: list[Row] = CLEAN,
    acked: set[tuple[int, RoundId]] = ACKED,
    sums: Mapping[RoundId, tuple[float, ...]] = SUMS,
    is_exact: bool = True,
) -> Verdict:
    aggregates = {
        name: Aggregate(np.array(marks), is_exact, is_published=True) for name, marks in sums.items()
    }
    return judge(acked, Books(tuple(rows), aggregates, {}))


def figures(said: Verdict) -> tuple[int, int, int, int, int]:
    return said.acked, said.counted, said.lost, said.double, sum(said.unacked.values())


def test_books_that_agree_are_clean() -> None:
    said = said_of()

    assert figures(said) == (4, 4, 0, 0, 0)
    assert said.faults == ()


def test_a_report_that_is_in_no_sum_is_lost() -> None:
    said = said_of(sums={ONE: (1.0, 0.0, 1.0), TWO: (1.0, 0.0, 0.0)})

    assert figures(said) == (4, 3, 1, 0, 0)
    assert said.faults == ("the sum of t-1 has -1 of phone 1 against its rows",)


def test_a_receipt_without_a_row_is_a_lost_report() -> None:
    said = said_of(acked=ACKED | {(7, TWO)})

    assert figures(said) == (5, 4, 1, 0, 0)
    assert said.faults == ("t-2 has no row of phone 7's receipt",)


def test_a_report_that_is_twice_in_a_sum_is_double() -> None:
    assert figures(said_of(sums={ONE: (1.0, 1.0, 3.0), TWO: (1.0, 0.0, 0.0)})) == (4, 6, 0, 2, 0)


def test_a_report_in_a_sum_of_which_nobody_knows_is_double() -> None:
    assert figures(said_of(sums={ONE: (1.0, 1.0, 1.0), TWO: (1.0, 1.0, 0.0)})) == (4, 5, 0, 1, 0)


def test_a_report_lost_in_one_round_is_not_made_up_for_by_the_same_phones_double_in_another() -> None:
    assert figures(said_of(sums={ONE: (0.0, 1.0, 1.0), TWO: (2.0, 0.0, 0.0)})) == (4, 4, 1, 1, 0)


def test_the_reports_of_a_round_that_has_no_sum_are_lost() -> None:
    assert figures(said_of(sums={ONE: (1.0, 1.0, 1.0)})) == (4, 3, 1, 0, 0)


def test_a_report_whose_receipt_got_lost_is_counted_apart() -> None:
    said = said_of(acked=ACKED - {(2, ONE)})

    assert figures(said) == (3, 4, 0, 0, 1)
    assert said.unacked == {"t": 1}


def test_a_phone_may_be_in_the_sum_of_a_carried_round_and_its_own_together() -> None:
    rows = [Row(0, ONE, TWO, 1.0), Row(0, TWO, TWO, 1.0)]

    said = said_of(rows=rows, acked={(0, ONE), (0, TWO)}, sums={TWO: (2.0, 0.0, 0.0)})

    assert figures(said) == (2, 2, 0, 0, 0)


def test_an_exact_sum_may_not_be_off_by_a_bit_and_a_rounded_one_by_no_report() -> None:
    barely = {ONE: (1.0, 1.0, float(np.nextafter(np.float32(1.0), np.float32(2.0)))), TWO: (1.0, 0.0, 0.0)}
    stale = [Row(0, ONE, ONE, 11**-0.5), Row(1, ONE, ONE, 1.0)]
    acked = {(0, ONE), (1, ONE)}

    assert said_of(sums=barely).double == 1
    assert figures(said_of(sums=barely, is_exact=False))[2:] == (0, 0, 0)
    for marks, off in (((0.3015, 1.0), (0, 0)), ((0.0, 1.0), (1, 0)), ((0.603, 1.0), (0, 1))):
        said = said_of(rows=stale, acked=acked, sums={ONE: marks}, is_exact=False)
        assert (said.lost, said.double) == off


def books_with(mark: float) -> Books:
    marks = np.zeros(LAYOUT.size)
    marks[COORDINATES[0]] = mark
    return Books((), {TWO: Aggregate(marks, is_exact=True, is_published=True)}, {}, carried={ONE: TWO})


@pytest.mark.parametrize(
    ("is_late", "is_acked", "mark", "faults"),
    [
        (True, False, 0.0, 0),
        (True, False, 1.0, 1),
        (True, True, 1.0, 2),
        (False, False, 0.0, 0),
        (False, False, 1.0, 0),
        (False, True, 1.0, 0),
        (False, True, 0.0, 1),
        (False, True, 2.0, 1),
    ],
)
def test_of_a_phone_that_left_only_a_report_that_raced_with_the_answer_may_be_in_a_sum(
    is_late: bool, is_acked: bool, mark: float, faults: int
) -> None:
    life = Life(COORDINATES[0], ONE, Departure.FORGOTTEN, is_acked, is_late)

    found = wrongly_counted([life], books_with(mark))

    assert len(found) == faults


@pytest.mark.parametrize(("factor", "lost", "double"), [(1.0, 0, 0), (0.0, 1, 0), (2.0, 0, 1)])
async def test_a_server_that_sums_wrongly_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, lost: int, double: int
) -> None:
    take = PendingSum.take

    def plant(self: PendingSum, may_take: object) -> object:
        taken = take(self, may_take)  # type: ignore[arg-type]  # handed on as it came
        if taken is not None:
            taken.sum.sum[5] *= factor
        return taken

    monkeypatch.setattr(PendingSum, "take", plant)
    town = Town(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobs(tmp_path / "blobs"),
        ack_wait_s=10.0,
    )
    await town.coordinator.start()
    await town.found()
    await town.task(
        round=f"goal = {ROUND_GOAL}\nover_selection = 0.0\nmin_flush_clients = 1\nunsafe_single_flush = true"
    )
    phones: dict[DeviceId, int] = {}
    acked: set[tuple[int, RoundId]] = set()
    for phone in range(ROUND_GOAL + 1):  # the last of them is in a round that stays open
        identity = await town.enrol()
        phones[identity.device] = phone
        claims = await town.assigned(identity)
        delta = np.zeros(LAYOUT.size, np.float32)
        delta[phone] = -1.0
        assert (await town.coordinator.report(claims, report(delta))).counted
        acked.add((phone, claims.round))
        await town.coordinator.tick()
    books = await read_books(town.store, town.blobs, phones)
    await town.coordinator.stop()

    said = judge(acked, books)
    assert (said.acked, said.lost, said.double) == (ROUND_GOAL + 1, lost, double)
    assert [one.is_published for one in books.aggregates.values()] == [True, False]

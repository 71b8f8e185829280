"""The check of a chaos run finds each violation that is planted, and none hides another."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.recovery.departing_phones import COORDINATES, DepartedPhone, Departure, check_departed
from tests.recovery.invariants import ExactlyOnceCheck, check_exactly_once
from tests.recovery.one_hot_fleet import LAYOUT, ROUND_GOAL
from tests.recovery.recorded_state import RecordedState, RoundSum, TracedReport, read_recorded_state
from tests.unit.coordinator.harness import CoordinatorHarness, report

from keyflock_server.coordinator.micro_batch import PendingSum
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.sql.store import SqlStore

ONE, TWO = RoundId("t-1"), RoundId("t-2")
CLEAN = [TracedReport(phone, ONE, ONE, 1.0) for phone in (0, 1, 2)] + [TracedReport(0, TWO, TWO, 1.0)]
ACKED = {(row.phone, row.assigned_in) for row in CLEAN}
SUMS = {ONE: (1.0, 1.0, 1.0), TWO: (1.0, 0.0, 0.0)}


def check(
    *,
    rows: list[TracedReport] = CLEAN,
    acked: set[tuple[int, RoundId]] = ACKED,
    sums: Mapping[RoundId, tuple[float, ...]] = SUMS,
    is_exact: bool = True,
) -> ExactlyOnceCheck:
    round_sums = {
        name: RoundSum(np.array(marks), is_exact, is_published=True) for name, marks in sums.items()
    }
    return check_exactly_once(acked, RecordedState(tuple(rows), round_sums, {}))


def figures(checked: ExactlyOnceCheck) -> tuple[int, int, int, int, int]:
    return checked.acked, checked.counted, checked.lost, checked.double, sum(checked.unacked.values())


def test_records_that_agree_are_clean() -> None:
    checked = check()

    assert figures(checked) == (4, 4, 0, 0, 0)
    assert checked.violations == ()


def test_a_report_that_is_in_no_sum_is_lost() -> None:
    checked = check(sums={ONE: (1.0, 0.0, 1.0), TWO: (1.0, 0.0, 0.0)})

    assert figures(checked) == (4, 3, 1, 0, 0)
    assert checked.violations == ("the sum of t-1 has -1 of phone 1 against its rows",)


def test_a_receipt_without_a_row_is_a_lost_report() -> None:
    checked = check(acked=ACKED | {(7, TWO)})

    assert figures(checked) == (5, 4, 1, 0, 0)
    assert checked.violations == ("t-2 has no row of phone 7's receipt",)


def test_a_report_that_is_twice_in_a_sum_is_double() -> None:
    assert figures(check(sums={ONE: (1.0, 1.0, 3.0), TWO: (1.0, 0.0, 0.0)})) == (4, 6, 0, 2, 0)


def test_a_report_in_a_sum_of_which_nobody_knows_is_double() -> None:
    assert figures(check(sums={ONE: (1.0, 1.0, 1.0), TWO: (1.0, 1.0, 0.0)})) == (4, 5, 0, 1, 0)


def test_a_report_lost_in_one_round_is_not_made_up_for_by_the_same_phones_double_in_another() -> None:
    assert figures(check(sums={ONE: (0.0, 1.0, 1.0), TWO: (2.0, 0.0, 0.0)})) == (4, 4, 1, 1, 0)


def test_the_reports_of_a_round_that_has_no_sum_are_lost() -> None:
    assert figures(check(sums={ONE: (1.0, 1.0, 1.0)})) == (4, 3, 1, 0, 0)


def test_a_report_whose_receipt_got_lost_is_counted_apart() -> None:
    checked = check(acked=ACKED - {(2, ONE)})

    assert figures(checked) == (3, 4, 0, 0, 1)
    assert checked.unacked == {"t": 1}


def test_a_phone_may_be_in_the_sum_of_a_carried_round_and_its_own_together() -> None:
    rows = [TracedReport(0, ONE, TWO, 1.0), TracedReport(0, TWO, TWO, 1.0)]

    checked = check(rows=rows, acked={(0, ONE), (0, TWO)}, sums={TWO: (2.0, 0.0, 0.0)})

    assert figures(checked) == (2, 2, 0, 0, 0)


def test_an_exact_sum_may_not_be_off_by_a_bit_and_a_rounded_one_by_no_report() -> None:
    barely = {ONE: (1.0, 1.0, float(np.nextafter(np.float32(1.0), np.float32(2.0)))), TWO: (1.0, 0.0, 0.0)}
    stale = [TracedReport(0, ONE, ONE, 11**-0.5), TracedReport(1, ONE, ONE, 1.0)]
    acked = {(0, ONE), (1, ONE)}

    assert check(sums=barely).double == 1
    assert figures(check(sums=barely, is_exact=False))[2:] == (0, 0, 0)
    for marks, off in (((0.3015, 1.0), (0, 0)), ((0.0, 1.0), (1, 0)), ((0.603, 1.0), (0, 1))):
        checked = check(rows=stale, acked=acked, sums={ONE: marks}, is_exact=False)
        assert (checked.lost, checked.double) == off


def recorded_with(weight: float) -> RecordedState:
    weights = np.zeros(LAYOUT.size)
    weights[COORDINATES[0]] = weight
    return RecordedState(
        (), {TWO: RoundSum(weights, is_exact=True, is_published=True)}, {}, carried={ONE: TWO}
    )


@pytest.mark.parametrize(
    ("is_after_departure", "is_acked", "weight", "violations"),
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
    is_after_departure: bool, is_acked: bool, weight: float, violations: int
) -> None:
    phone = DepartedPhone(COORDINATES[0], ONE, Departure.FORGOTTEN, is_acked, is_after_departure)

    found = check_departed([phone], recorded_with(weight))

    assert len(found) == violations


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
    harness = CoordinatorHarness(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobStore(tmp_path / "blobs"),
        ack_wait_s=10.0,
    )
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(
        round=f"goal = {ROUND_GOAL}\nover_selection = 0.0\nmin_flush_clients = 1\nunsafe_single_flush = true"
    )
    phones: dict[DeviceId, int] = {}
    acked: set[tuple[int, RoundId]] = set()
    for phone in range(ROUND_GOAL + 1):  # the last of them is in a round that stays open
        identity = await harness.enrol()
        phones[identity.device] = phone
        claims = await harness.assigned(identity)
        delta = np.zeros(LAYOUT.size, np.float32)
        delta[phone] = -1.0
        assert (await harness.coordinator.reports.report(claims, report(delta))).counted
        acked.add((phone, claims.round))
        await harness.coordinator.tick()
    recorded = await read_recorded_state(harness.store, harness.blobs, phones)
    await harness.coordinator.stop()

    checked = check_exactly_once(acked, recorded)
    assert (checked.acked, checked.lost, checked.double) == (ROUND_GOAL + 1, lost, double)
    assert [one.is_published for one in recorded.round_sums.values()] == [True, False]

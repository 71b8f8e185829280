"""Phones that take slots and never report: others get the slots, and an operator sees it."""

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from tests.unit.coordinator.diverging_task import ABSURD, play, send
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator.events import NullObserver
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Assignment, Refusal, Report
from keyflock_server.protocol.problems import ApiError, ProblemCode

TASK = TaskName("t")
ROUND = "goal = 10\ndeadline_s = 600.0"


@dataclass
class ExpiryRecorder(NullObserver):
    """Records the expired assignments."""

    expired: int = 0
    warned_of: list[int] = field(default_factory=list)

    def assignments_expired(self, _task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        self.expired += count
        if is_mostly:
            self.warned_of.append(sequence)


async def silences(harness: CoordinatorHarness, device: DeviceIdentity) -> int:
    return (await harness.coordinator.quarantines.device(device.device)).silences


class HoggingFleet:
    """Simulates phones that keep to their windows; hogs never report, and always come first."""

    def __init__(
        self, harness: CoordinatorHarness, hogs: list[DeviceIdentity], honest: list[DeviceIdentity]
    ) -> None:
        self.harness, self.hogs, self.honest = harness, hogs, honest
        self.due_at = dict.fromkeys([*hogs, *honest], harness.now)
        self.work: list[tuple[datetime, DeviceIdentity, Assignment]] = []

    async def run(self, seconds: float) -> None:
        """Run in steps of a quarter of a minute; honest phones report after half a minute."""
        end = self.harness.now + timedelta(seconds=seconds)
        while self.harness.now < end:
            self.harness.pass_time(15.0)
            for _ in range(2):
                await self.harness.coordinator.tick()
            for one in [one for one in self.work if one[0] <= self.harness.now]:
                self.work.remove(one)
                await self.report(one[1], one[2])
            for device in [*self.hogs, *self.honest]:
                if self.due_at[device] <= self.harness.now:
                    await self.check_in(device)

    async def check_in(self, device: DeviceIdentity) -> None:
        answer = await self.harness.check_in(device)
        if isinstance(answer, Refusal):
            self.come_back(device, answer.return_window.min_s)
        else:
            self.come_back(device, 75.0)
            if device in self.honest:
                self.work.append((self.harness.now + timedelta(seconds=30.0), device, answer))

    async def report(self, device: DeviceIdentity, assignment: Assignment) -> None:
        claims = self.harness.tokens.read_late(assignment.token)
        try:
            receipt = await self.harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
            self.come_back(device, receipt.return_window.min_s)
        except ApiError as refused:
            if refused.code is ProblemCode.REPORT_PENDING:
                self.work.append((self.harness.now + timedelta(seconds=15.0), device, assignment))

    def come_back(self, device: DeviceIdentity, after_s: float) -> None:
        self.due_at[device] = self.harness.now + timedelta(seconds=after_s)


@pytest.mark.fault("D13")
async def test_sixty_phones_that_never_report_do_not_keep_thirty_that_do_from_making_versions() -> None:
    harness = CoordinatorHarness(observer=ExpiryRecorder())
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round=ROUND)
    hogs = [await harness.enrol() for _ in range(60)]
    honest = [await harness.enrol() for _ in range(30)]

    await HoggingFleet(harness, hogs, honest).run(10 * 600.0)

    rounds = await listed_rounds(harness.coordinator, TASK)
    made = [one.sequence for one in rounds if one.result_version is not None]
    assert made[0] <= 4
    assert len(made) >= 5
    assert sum(one.expired for one in rounds) >= 60
    assert min([await silences(harness, hog) for hog in hogs]) >= 1
    assert {await silences(harness, phone) for phone in honest} == {0}
    assert isinstance(harness.observer, ExpiryRecorder)
    assert harness.observer.expired >= 60
    assert 1 in harness.observer.warned_of
    assert len(set(harness.observer.warned_of)) == len(harness.observer.warned_of)
    await harness.coordinator.stop()


@pytest.mark.fault("D13")
async def test_an_assignment_has_a_time_of_its_own_and_its_slot_is_given_to_another(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 2000.0\nselection_s = 1.0")
    await play_rounds_reporting_after(harness, 40.0)
    holders = [await harness.enrol_proven() for _ in range(4)]
    answers = [await harness.check_in(device) for device in holders]
    waiting = await harness.enrol_proven()
    full = await harness.check_in(waiting)

    harness.pass_time(61.0 + 5.0)
    await harness.coordinator.tick()
    assert isinstance(full, Refusal)
    harness.pass_time(max(0.0, full.return_window.min_s - 66.0))
    instead = await harness.check_in(waiting)
    late = await harness.check_in(holders[0])

    assert all(isinstance(one, Assignment) for one in answers)
    first = answers[0]
    assert isinstance(first, Assignment)
    # Half as long again as nineteen of twenty reports took, and a minute at least.
    assert 60.0 <= first.expires_in_s <= 70.0
    assert full.reason == "round_full"
    assert isinstance(instead, Assignment)
    assert instead.round == first.round
    assert isinstance(late, Refusal)
    assert late.reason == "too_soon"
    assert (await harness.coordinator.tasks.round(first.round)).expired == 4


async def play_rounds_reporting_after(harness: CoordinatorHarness, seconds: float) -> None:
    """Play rounds in which every device reports after this time."""
    for _ in range(8):
        devices = [await harness.enrol_proven() for _ in range(4)]
        answers = [await harness.check_in(device) for device in devices]
        harness.pass_time(seconds)
        for answer in answers:
            assert isinstance(answer, Assignment)
            claims = harness.claims(answer)
            with contextlib.suppress(ApiError):
                await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
        await harness.coordinator.tick()
        await harness.coordinator.tick()
        harness.pass_time(2.0)


@pytest.mark.fault("D13")
async def test_a_repeated_check_in_repeats_the_same_end_and_a_report_after_it_is_gone(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 2000.0\nselection_s = 1.0")
    await play_rounds_reporting_after(harness, 40.0)
    device = await harness.enrol_proven()
    first = await harness.check_in(device)
    harness.pass_time(10.0)
    again = await harness.check_in(device)
    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    claims = harness.claims(first)

    harness.pass_time(66.0)
    await harness.coordinator.tick()
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))

    assert (again.id, harness.tokens.read_late(again.token).expires_at) == (first.id, claims.expires_at)
    assert first.expires_in_s - again.expires_in_s == pytest.approx(10.0)
    assert refused.value.code is ProblemCode.ROUND_GONE
    # A report that came late is no violation, and it was silent until then.
    view = await harness.coordinator.quarantines.device(device.device)
    assert (view.strikes, view.silences, view.is_quarantined) == ([], 1, False)


@pytest.mark.fault("D13")
async def test_who_still_had_time_when_the_goal_was_met_was_not_silent(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5\ndeadline_s = 600.0")
    devices = [await harness.enrol() for _ in range(6)]
    claims = [await harness.assigned(device) for device in devices]

    for one in claims[:4]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    await harness.coordinator.tick()
    harness.pass_time(700.0)
    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(claims[0].round)).phase == "closed"
    assert [await silences(harness, device) for device in devices] == [0] * 6


@pytest.mark.fault("D13")
@pytest.mark.parametrize("round_toml", ["", 'mode = "async"\nconcurrency = 6\n'])
async def test_who_still_had_time_when_a_round_was_held_was_not_silent(
    harness: CoordinatorHarness, round_toml: str
) -> None:
    table = f"{round_toml}goal = 4\nover_selection = 0.5\ndeadline_s = 600.0"
    await harness.task(round=table, optimizer=ABSURD)
    devices = [await harness.enrol() for _ in range(6)]
    claims = [await harness.assigned(device) for device in devices]

    for one in claims[:4]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    await harness.coordinator.tick()
    harness.pass_time(700.0)
    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(claims[0].round)).phase == "held"
    assert [await silences(harness, device) for device in devices] == [0] * 6


@pytest.mark.fault("D13")
async def test_whose_report_is_of_a_model_too_old_for_the_buffer_was_not_silent(
    harness: CoordinatorHarness,
) -> None:
    table = 'mode = "async"\ngoal = 4\nconcurrency = 6\nmax_staleness = 0\ndeadline_s = 600.0'
    await harness.task(round=table)
    slow, silent = await harness.enrol(), await harness.enrol()
    claims = await harness.assigned(slow)
    await harness.assigned(silent)
    await play(harness)

    answer = await send(harness, claims)
    harness.pass_time(606.0)
    await harness.coordinator.tick()

    assert answer is ProblemCode.ROUND_GONE
    assert [await silences(harness, device) for device in (slow, silent)] == [0, 1]


@pytest.mark.fault("D13")
async def test_who_says_nothing_until_the_deadline_was_silent_and_a_refused_report_is_no_silence(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    silent, refused = await harness.enrol(), await harness.enrol()
    await harness.assigned(silent)
    claims = await harness.assigned(refused)
    with pytest.raises(ApiError):
        await harness.coordinator.reports.report(claims, Report(delta=b"nonsense", examples=1))

    harness.pass_time(600.0)
    await harness.coordinator.tick()

    ended = await harness.coordinator.tasks.round(claims.round)
    assert (ended.phase, ended.expired) == ("abandoned", 2)
    assert [await silences(harness, device) for device in (silent, refused)] == [1, 0]


@pytest.mark.fault("D13")
async def test_a_silent_phones_claim_is_whole_again_after_a_week(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    phones = [await harness.enrol() for _ in range(4)]
    taken = []
    for _ in range(12):
        answers = [await harness.check_in(phone) for phone in phones]
        taken.append(sum(isinstance(one, Assignment) for one in answers))
        harness.pass_time(600.0)
        await harness.coordinator.tick()
        await harness.coordinator.tick()
    for _ in range(7):
        # They are seen meanwhile, and so they are not deleted.
        harness.pass_time(86_400.0)
        for phone in phones:
            await harness.check_in(phone, examples=0)
        await harness.coordinator.tick()
        await harness.coordinator.tick()
    harness.pass_time(100.0)

    after = [await harness.check_in(phone) for phone in phones]

    # Nobody else comes, and all slots are free: what keeps them out is their own claim.
    assert taken[:2] == [4, 4]
    assert sum(taken[6:]) <= 6
    assert all(isinstance(one, Assignment) for one in after)
    views = [await harness.coordinator.quarantines.device(one.device) for one in phones]
    assert not any(view.is_quarantined for view in views)


@pytest.mark.fault("D13")
async def test_silences_count_in_a_buffer_too_and_its_places_come_to_others(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round='mode = "async"\ngoal = 4\nconcurrency = 4\ndeadline_s = 600.0')
    hogs = [await harness.enrol() for _ in range(4)]
    honest = await harness.enrol()
    for hog in hogs:
        await harness.assigned(hog)
    full = await harness.check_in(honest)

    harness.pass_time(606.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    taken = await harness.check_in(honest)

    assert isinstance(full, Refusal)
    assert isinstance(taken, Assignment)
    assert [await silences(harness, hog) for hog in hogs] == [1] * 4


@pytest.mark.fault("D13")
async def test_what_another_process_gave_out_runs_out_all_the_same(harness: CoordinatorHarness) -> None:
    harness.coordinator = harness.another_coordinator("a")
    follower = harness.another_coordinator("b")
    await harness.coordinator.start()
    await harness.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    await follower.start()
    device = await harness.enrol()
    leader, harness.coordinator = harness.coordinator, follower
    claims = await harness.assigned(device)

    for _ in range(2):
        harness.pass_time(605.0)
        await leader.tick()
        await follower.tick()
    with pytest.raises(ApiError) as refused:
        await follower.reports.report(claims, report(constant(1.0), of=claims))

    assert refused.value.code is ProblemCode.ROUND_GONE
    assert await silences(harness, device) == 1
    await leader.stop()

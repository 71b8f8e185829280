"""Phones that take slots and never report: others get the slots, and an operator sees it."""

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from tests.unit.coordinator.diverging_task import ABSURD, play, send
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.coordinator.events import Silent
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Assignment, Refusal, Report
from keyflock_server.protocol.problems import ProblemCode, Refused

TASK = TaskName("t")
ROUND = "goal = 10\ndeadline_s = 600.0"


@dataclass
class Watching(Silent):
    """What an operator is told."""

    expired: int = 0
    warned_of: list[int] = field(default_factory=list)

    def assignments_expired(self, _task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        self.expired += count
        if is_mostly:
            self.warned_of.append(sequence)


async def silences(town: Town, device: DeviceIdentity) -> int:
    return (await town.coordinator.device(device.device)).silences


class Fleet:
    """Phones that keep to their windows; hogs never report, and are always the first to come."""

    def __init__(self, town: Town, hogs: list[DeviceIdentity], honest: list[DeviceIdentity]) -> None:
        self.town, self.hogs, self.honest = town, hogs, honest
        self.due_at = dict.fromkeys([*hogs, *honest], town.now)
        self.work: list[tuple[datetime, DeviceIdentity, Assignment]] = []

    async def live(self, seconds: float) -> None:
        """In steps of a quarter of a minute; who is honest reports after half a minute."""
        end = self.town.now + timedelta(seconds=seconds)
        while self.town.now < end:
            self.town.pass_time(15.0)
            for _ in range(2):
                await self.town.coordinator.tick()
            for one in [one for one in self.work if one[0] <= self.town.now]:
                self.work.remove(one)
                await self.report(one[1], one[2])
            for device in [*self.hogs, *self.honest]:
                if self.due_at[device] <= self.town.now:
                    await self.check_in(device)

    async def check_in(self, device: DeviceIdentity) -> None:
        answer = await self.town.check_in(device)
        if isinstance(answer, Refusal):
            self.come_back(device, answer.return_window.min_s)
        else:
            self.come_back(device, 75.0)
            if device in self.honest:
                self.work.append((self.town.now + timedelta(seconds=30.0), device, answer))

    async def report(self, device: DeviceIdentity, assignment: Assignment) -> None:
        claims = self.town.tokens.read_late(assignment.token)
        try:
            receipt = await self.town.coordinator.report(claims, report(constant(1.0), of=claims))
            self.come_back(device, receipt.return_window.min_s)
        except Refused as refused:
            if refused.code is ProblemCode.REPORT_PENDING:
                self.work.append((self.town.now + timedelta(seconds=15.0), device, assignment))

    def come_back(self, device: DeviceIdentity, after_s: float) -> None:
        self.due_at[device] = self.town.now + timedelta(seconds=after_s)


@pytest.mark.fault("D13")
async def test_sixty_phones_that_never_report_do_not_keep_thirty_that_do_from_making_versions() -> None:
    town = Town(observer=Watching())
    await town.coordinator.start()
    await town.found()
    await town.task(round=ROUND)
    hogs = [await town.enrol() for _ in range(60)]
    honest = [await town.enrol() for _ in range(30)]

    await Fleet(town, hogs, honest).live(10 * 600.0)

    rounds = await town.coordinator.rounds(TASK)
    made = [one.sequence for one in rounds if one.result_version is not None]
    assert made[0] <= 4
    assert len(made) >= 5
    assert sum(one.expired for one in rounds) >= 60
    assert min([await silences(town, hog) for hog in hogs]) >= 1
    assert {await silences(town, phone) for phone in honest} == {0}
    assert isinstance(town.observer, Watching)
    assert town.observer.expired >= 60
    assert 1 in town.observer.warned_of
    assert len(set(town.observer.warned_of)) == len(town.observer.warned_of)
    await town.coordinator.stop()


@pytest.mark.fault("D13")
async def test_an_assignment_has_a_time_of_its_own_and_its_slot_is_given_to_another(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 2000.0\nselection_s = 1.0")
    await learn_that_reports_take(town, 40.0)
    holders = [await town.enrol_proven() for _ in range(4)]
    answers = [await town.check_in(device) for device in holders]
    waiting = await town.enrol_proven()
    full = await town.check_in(waiting)

    town.pass_time(61.0 + 5.0)
    await town.coordinator.tick()
    assert isinstance(full, Refusal)
    town.pass_time(max(0.0, full.return_window.min_s - 66.0))
    instead = await town.check_in(waiting)
    late = await town.check_in(holders[0])

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
    assert (await town.coordinator.round(first.round)).expired == 4


async def learn_that_reports_take(town: Town, seconds: float) -> None:
    """Rounds in which everybody reports after so long."""
    for _ in range(8):
        devices = [await town.enrol_proven() for _ in range(4)]
        answers = [await town.check_in(device) for device in devices]
        town.pass_time(seconds)
        for answer in answers:
            assert isinstance(answer, Assignment)
            claims = town.claims(answer)
            with contextlib.suppress(Refused):
                await town.coordinator.report(claims, report(constant(1.0), of=claims))
        await town.coordinator.tick()
        await town.coordinator.tick()
        town.pass_time(2.0)


@pytest.mark.fault("D13")
async def test_a_repeated_check_in_repeats_the_same_end_and_a_report_after_it_is_gone(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 2000.0\nselection_s = 1.0")
    await learn_that_reports_take(town, 40.0)
    device = await town.enrol_proven()
    first = await town.check_in(device)
    town.pass_time(10.0)
    again = await town.check_in(device)
    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    claims = town.claims(first)

    town.pass_time(66.0)
    await town.coordinator.tick()
    with pytest.raises(Refused) as refused:
        await town.coordinator.report(claims, report(constant(1.0), of=claims))

    assert (again.id, town.tokens.read_late(again.token).expires_at) == (first.id, claims.expires_at)
    assert first.expires_in_s - again.expires_in_s == pytest.approx(10.0)
    assert refused.value.code is ProblemCode.ROUND_GONE
    # A report that came late is no strike, and it was silent until then.
    view = await town.coordinator.device(device.device)
    assert (view.strikes, view.silences, view.is_quarantined) == ([], 1, False)


@pytest.mark.fault("D13")
async def test_who_still_had_time_when_the_goal_was_met_was_not_silent(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.5\ndeadline_s = 600.0")
    devices = [await town.enrol() for _ in range(6)]
    claims = [await town.assigned(device) for device in devices]

    for one in claims[:4]:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, report(constant(1.0), of=one))
    await town.coordinator.tick()
    town.pass_time(700.0)
    await town.coordinator.tick()

    assert (await town.coordinator.round(claims[0].round)).phase == "closed"
    assert [await silences(town, device) for device in devices] == [0] * 6


@pytest.mark.fault("D13")
@pytest.mark.parametrize("round_toml", ["", 'mode = "async"\nconcurrency = 6\n'])
async def test_who_still_had_time_when_a_round_was_held_was_not_silent(town: Town, round_toml: str) -> None:
    table = f"{round_toml}goal = 4\nover_selection = 0.5\ndeadline_s = 600.0"
    await town.task(round=table, optimizer=ABSURD)
    devices = [await town.enrol() for _ in range(6)]
    claims = [await town.assigned(device) for device in devices]

    for one in claims[:4]:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, report(constant(1.0), of=one))
    await town.coordinator.tick()
    town.pass_time(700.0)
    await town.coordinator.tick()

    assert (await town.coordinator.round(claims[0].round)).phase == "held"
    assert [await silences(town, device) for device in devices] == [0] * 6


@pytest.mark.fault("D13")
async def test_whose_report_is_of_a_model_too_old_for_the_buffer_was_not_silent(town: Town) -> None:
    table = 'mode = "async"\ngoal = 4\nconcurrency = 6\nmax_staleness = 0\ndeadline_s = 600.0'
    await town.task(round=table)
    slow, silent = await town.enrol(), await town.enrol()
    claims = await town.assigned(slow)
    await town.assigned(silent)
    await play(town)

    answer = await send(town, claims)
    town.pass_time(606.0)
    await town.coordinator.tick()

    assert answer is ProblemCode.ROUND_GONE
    assert [await silences(town, device) for device in (slow, silent)] == [0, 1]


@pytest.mark.fault("D13")
async def test_who_says_nothing_until_the_deadline_was_silent_and_a_refused_report_is_no_silence(
    town: Town,
) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    silent, refused = await town.enrol(), await town.enrol()
    await town.assigned(silent)
    claims = await town.assigned(refused)
    with pytest.raises(Refused):
        await town.coordinator.report(claims, Report(delta=b"nonsense", examples=1))

    town.pass_time(600.0)
    await town.coordinator.tick()

    ended = await town.coordinator.round(claims.round)
    assert (ended.phase, ended.expired) == ("abandoned", 2)
    assert [await silences(town, device) for device in (silent, refused)] == [1, 0]


@pytest.mark.fault("D13")
async def test_a_silent_phones_claim_is_whole_again_after_a_week(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    phones = [await town.enrol() for _ in range(4)]
    taken = []
    for _ in range(12):
        answers = [await town.check_in(phone) for phone in phones]
        taken.append(sum(isinstance(one, Assignment) for one in answers))
        town.pass_time(600.0)
        await town.coordinator.tick()
        await town.coordinator.tick()
    for _ in range(7):
        # They are seen meanwhile, and so they are not deleted.
        town.pass_time(86_400.0)
        for phone in phones:
            await town.check_in(phone, examples=0)
        await town.coordinator.tick()
        await town.coordinator.tick()
    town.pass_time(100.0)

    after = [await town.check_in(phone) for phone in phones]

    # Nobody else comes, and all slots are free: what keeps them out is their own claim.
    assert taken[:2] == [4, 4]
    assert sum(taken[6:]) <= 6
    assert all(isinstance(one, Assignment) for one in after)
    views = [await town.coordinator.device(one.device) for one in phones]
    assert not any(view.is_quarantined for view in views)


@pytest.mark.fault("D13")
async def test_silences_count_in_a_buffer_too_and_its_places_come_to_others(town: Town) -> None:
    await town.task(round='mode = "async"\ngoal = 4\nconcurrency = 4\ndeadline_s = 600.0')
    hogs = [await town.enrol() for _ in range(4)]
    honest = await town.enrol()
    for hog in hogs:
        await town.assigned(hog)
    full = await town.check_in(honest)

    town.pass_time(606.0)
    await town.coordinator.tick()
    await town.coordinator.tick()
    taken = await town.check_in(honest)

    assert isinstance(full, Refusal)
    assert isinstance(taken, Assignment)
    assert [await silences(town, hog) for hog in hogs] == [1] * 4


@pytest.mark.fault("D13")
async def test_what_another_process_gave_out_runs_out_all_the_same(town: Town) -> None:
    town.coordinator = town.another_coordinator("a")
    follower = town.another_coordinator("b")
    await town.coordinator.start()
    await town.task(round="goal = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    await follower.start()
    device = await town.enrol()
    leader, town.coordinator = town.coordinator, follower
    claims = await town.assigned(device)

    for _ in range(2):
        town.pass_time(605.0)
        await leader.tick()
        await follower.tick()
    with pytest.raises(Refused) as refused:
        await follower.report(claims, report(constant(1.0), of=claims))

    assert refused.value.code is ProblemCode.ROUND_GONE
    assert await silences(town, device) == 1
    await leader.stop()

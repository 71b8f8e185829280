"""Operators pause, change and archive tasks while phones work, and every process follows."""

from dataclasses import replace
from datetime import timedelta

from msgspec import UNSET
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import play, refusal
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, task_spec

from keyflock_server.audit.context import POLICY
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Refusal, RefusalReason
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.interfaces.audit import AuditFilter

T = TaskName("t")
NIGHT = replace(AUDIT, reason="nights are for the backups", action="task.pause")


async def test_a_pause_has_its_reason_and_its_end_and_is_over_by_itself(harness: CoordinatorHarness) -> None:
    await harness.task()
    until = harness.now + timedelta(hours=8)

    paused = await harness.coordinator.tasks.pause("t", until=until, audit=NIGHT)
    harness.pass_time(8 * 3600 - 1)
    await harness.coordinator.tick()
    still = (await harness.coordinator.tasks.get("t")).state
    refused = await harness.check_in(await harness.enrol())
    harness.pass_time(1)
    await harness.coordinator.tick()
    resumed = await harness.coordinator.tasks.get("t")

    assert (paused.state, paused.pause_reason, paused.resumes_at) == ("paused", NIGHT.reason, until)
    assert still == "paused"
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.PAUSED
    assert (resumed.state, resumed.pause_reason, resumed.resumes_at) == ("active", "", None)
    (entry,) = await harness.store.audit.page(AuditFilter(operator=POLICY), None, 10)
    assert (entry.action, entry.subject) == ("task.resume", "t")


async def test_a_later_pause_replaces_the_reason_and_the_end_of_the_earlier_one(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await harness.coordinator.tasks.pause("t", until=harness.now + timedelta(hours=1), audit=NIGHT)

    for_good = await harness.coordinator.tasks.pause("t", audit=replace(NIGHT, reason="a bad version"))
    harness.pass_time(7_200)
    await harness.coordinator.tick()

    assert (for_good.pause_reason, for_good.resumes_at) == ("a bad version", None)
    assert (await harness.coordinator.tasks.get("t")).state == "paused"


async def test_a_pause_cannot_end_in_the_past_and_a_task_that_is_over_cannot_be_paused(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()

    past = await refusal(harness.coordinator.tasks.pause("t", until=harness.now, audit=NIGHT))
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    over = await refusal(harness.coordinator.tasks.pause("t", audit=NIGHT))

    assert [past, over] == [ProblemCode.CONFLICT] * 2


async def test_only_the_leader_resumes_and_only_once(harness: CoordinatorHarness) -> None:
    one, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await one.start()
    await other.start()
    await one.tasks.create(task_spec(), audit=AUDIT)
    await one.tasks.pause("t", until=harness.now + timedelta(seconds=60), audit=NIGHT)
    await other.registry.sync()
    harness.pass_time(60)

    await other.tick()
    await one.tick()
    await other.tick()

    assert [state.status for state in (*one.registry, *other.registry)] == [TaskStatus.ACTIVE] * 2
    assert len(await harness.store.audit.page(AuditFilter(action="task.resume"), None, 10)) == 1
    await one.stop()
    await other.stop()


async def test_a_changed_goal_is_that_of_the_next_round_and_the_open_one_keeps_its_own(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()

    changed = await harness.coordinator.tasks.change("t", {"goal": 5}, audit=AUDIT)
    opened = await harness.coordinator.tasks.round(RoundId("t-1"))
    await play(harness)
    await harness.coordinator.tick()
    following = await harness.coordinator.tasks.round(RoundId("t-2"))

    assert (changed.spec["round"]["goal"], changed.revision) == (5, 1)
    assert (opened.goal, following.goal) == (4, 5)
    assert (await harness.coordinator.tasks.round(RoundId("t-1"))).phase == "closed"


async def test_another_process_opens_its_next_round_with_the_changed_spec(
    harness: CoordinatorHarness,
) -> None:
    leader, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await leader.start()
    await other.start()
    await leader.tasks.create(task_spec(), audit=AUDIT)
    await other.registry.sync()

    await other.tasks.change("t", {"goal": 6, "deadline_s": 30.0}, audit=AUDIT)
    await leader.tick()
    opened = await leader.tasks.round(RoundId("t-1"))

    assert opened.goal == 6
    assert (opened.deadline_at - opened.opened_at).total_seconds() == 30.0
    await leader.stop()
    await other.stop()


async def test_a_change_that_the_task_could_not_run_with_changes_nothing(harness: CoordinatorHarness) -> None:
    await harness.task()

    refused = await refusal(harness.coordinator.tasks.change("t", {"goal": 3}, audit=AUDIT))
    unchanged = await harness.coordinator.tasks.change("t", {"goal": UNSET}, audit=AUDIT)

    assert refused is ProblemCode.INVALID_TASK
    assert unchanged.revision == 0


async def test_the_audit_entry_of_a_change_names_the_field_that_changed(harness: CoordinatorHarness) -> None:
    await harness.task()

    await harness.coordinator.tasks.change("t", {"goal": 9}, audit=replace(AUDIT, action="task.change"))

    (entry,) = await harness.store.audit.page(AuditFilter(action="task.change"), None, 10)
    assert entry.before_json is not None
    assert entry.after_json is not None
    assert '"goal":4' in entry.before_json
    assert '"goal":9' in entry.after_json


async def test_only_a_task_that_is_over_is_archived_and_it_can_still_be_read(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    tasks, lists = harness.coordinator.tasks, harness.coordinator.lists

    running = await refusal(tasks.set_archived("t", is_archived=True, audit=AUDIT))
    await tasks.cancel("t", audit=AUDIT)
    archived = await tasks.set_archived("t", is_archived=True, audit=AUDIT)
    again = await tasks.set_archived("t", is_archived=True, audit=AUDIT)
    ordinary = (await lists.tasks(None, 10, is_archived=False)).items
    archive = (await lists.tasks(None, 10, is_archived=True)).items
    back = await tasks.set_archived("t", is_archived=False, audit=AUDIT)

    assert running is ProblemCode.CONFLICT
    assert archived.archived_at == again.archived_at == AUDIT.at
    assert (ordinary, [one.name for one in archive]) == ([], ["t"])
    assert back.archived_at is None
    assert [one.id for one in (await lists.rounds(None, 10, task="t")).items] == ["t-1"]


async def test_a_history_has_the_changes_and_the_ends_of_rounds_newest_first(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    harness.pass_time(10)
    await play(harness)
    harness.pass_time(10)
    await harness.coordinator.tasks.pause("t", audit=replace(NIGHT, at=harness.now))

    history = await harness.coordinator.task_history.history("t", 10)
    newest = await harness.coordinator.task_history.history("t", 1)
    unknown = await refusal(harness.coordinator.task_history.history("nobody", 10))

    *_, paused, closed = [one for one in history.items if one.what != AUDIT.action]
    assert (paused.what, paused.detail, paused.operator) == ("task.pause", NIGHT.reason, NIGHT.operator)
    assert (closed.what, closed.reports, closed.version) == ("round.closed", 4, 1)
    assert len(newest.items) == 1
    assert unknown is ProblemCode.TASK_UNKNOWN


async def test_an_archived_population_takes_no_new_devices_and_no_new_tasks(
    harness: CoordinatorHarness,
) -> None:
    populations = harness.coordinator.populations
    known = await harness.enrol()
    await harness.task()

    busy = await refusal(populations.set_archived(POPULATION, is_archived=True, audit=AUDIT))
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    archived = await populations.set_archived(POPULATION, is_archived=True, audit=AUDIT)
    no_device = await refusal(harness.enrol())
    no_task = await refusal(harness.coordinator.tasks.create(task_spec("u"), audit=AUDIT))
    told = await harness.coordinator.forecasts.forecast(task_spec("u"))
    served = await harness.coordinator.downlink.release(POPULATION)
    answer = await harness.check_in(known)
    await populations.set_archived(POPULATION, is_archived=False, audit=AUDIT)
    await harness.enrol()

    assert busy is ProblemCode.CONFLICT
    assert archived.archived_at == AUDIT.at
    assert (no_device, no_task) == (ProblemCode.POPULATION_UNKNOWN, ProblemCode.CONFLICT)
    assert not told.is_accepted
    assert served.model_version == 0
    assert isinstance(answer, Refusal)

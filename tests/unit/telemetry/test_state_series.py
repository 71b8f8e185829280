"""What a process knows of its tasks, rounds and versions is what Prometheus sees."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import ABSURD, BECAUSE, FIRST, cohort, play, send
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, TaskName
from keyflock_server.protocol.operator.populations import DeletionOrder
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.runtime.state_series import StateSeries
from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.newest_backup import note_backup
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver

T = TaskName("t")


class Watched:
    """A coordinator and what Prometheus sees of it."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.harness = CoordinatorHarness(observer=MetricsObserver(self.metrics))
        StateSeries(self.harness.coordinator, lambda: self.harness.now).show_in(self.metrics)

    async def scrape(self, name: str) -> dict[str, float]:
        """Return a series by the value of its label, as the scrape after the next shows it."""
        self.metrics.exposition()
        await self.harness.coordinator.tick()
        lines = [line for line in self.metrics.exposition().decode().splitlines() if line.startswith(name)]
        pairs = (line.removeprefix(name).rsplit(" ", 1) for line in lines)
        return {label.partition('"')[2].removesuffix('"}'): float(value) for label, value in pairs}


async def started(**tables: str) -> Watched:
    watched = Watched()
    await watched.harness.coordinator.start()
    await watched.harness.create_population()
    await watched.harness.task(**tables)
    return watched


async def test_an_open_round_shows_its_age_and_how_near_its_deadline_is() -> None:
    watched = await started(round="goal = 4\ndeadline_s = 600")

    watched.harness.pass_time(150)

    assert await watched.scrape("keyflock_round_age_seconds") == {"t": 150.0}
    assert await watched.scrape("keyflock_round_age_ratio") == {"t": 0.25}
    assert (await watched.scrape("keyflock_tasks"))["active"] == 1.0


async def test_a_held_round_has_an_age_and_no_deadline() -> None:
    watched = await started(optimizer=ABSURD)
    await play(watched.harness)

    watched.harness.pass_time(10_000)

    assert await watched.scrape("keyflock_held_rounds") == {"": 1.0}
    assert await watched.scrape("keyflock_round_age_seconds") == {"t": 10_000.0}
    assert await watched.scrape("keyflock_round_age_ratio") == {}
    await watched.harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    assert await watched.scrape("keyflock_held_rounds") == {"": 0.0}


async def test_reports_that_wait_are_counted_and_the_oldest_has_an_age() -> None:
    watched = await started(round="goal = 8")
    first, second, *others = await cohort(watched.harness, 4)
    await send(watched.harness, first)
    watched.harness.pass_time(5)
    await send(watched.harness, second)
    watched.harness.pass_time(2)
    waiting = await watched.scrape("keyflock_pending_reports")
    oldest_s = await watched.scrape("keyflock_pending_report_age_seconds")
    for one in others:
        await send(watched.harness, one)

    assert waiting == {"t": 2.0}
    assert oldest_s == {"t": 7.0}
    assert await watched.scrape("keyflock_pending_reports") == {"t": 0.0}
    assert await watched.scrape("keyflock_pending_report_age_seconds") == {"t": 0.0}


async def test_a_population_shows_its_newest_version_and_how_long_it_has_waited_for_the_next() -> None:
    watched = await started()
    watched.harness.pass_time(100)
    await play(watched.harness)
    await watched.harness.coordinator.tick()

    watched.harness.pass_time(40)

    assert await watched.scrape("keyflock_model_version{") == {"en": 1.0}
    assert await watched.scrape("keyflock_model_version_age_seconds") == {"en": 40.0}


async def test_a_population_that_nobody_trains_waits_for_no_version() -> None:
    watched = await started()

    await watched.harness.coordinator.tasks.pause(T, audit=AUDIT)

    assert await watched.scrape("keyflock_model_version_age_seconds") == {}
    assert await watched.scrape("keyflock_model_version{") == {"en": 0.0}


async def test_an_ended_task_and_a_deleted_population_leave_no_series() -> None:
    watched = await started()
    harness = watched.harness
    watched.metrics.task_failures.labels(T).inc()
    watched.metrics.flush_interval_s.labels(T).set(1.0)
    before = await watched.scrape("keyflock_task_failures_total")

    await harness.coordinator.tasks.cancel(T, audit=AUDIT)
    await harness.coordinator.tick()

    assert before == {"t": 1.0}
    for name in (
        "keyflock_task_failures_total",
        "keyflock_flush_interval_seconds",
        "keyflock_round_age_seconds",
    ):
        assert await watched.scrape(name) == {}, name
    order = DeletionOrder(confirm=POPULATION, reason="a test")
    await harness.coordinator.populations.delete(POPULATION, order, audit=AUDIT)
    assert await watched.scrape("keyflock_model_version{") == {}


async def test_a_store_that_does_not_answer_shows_by_its_age() -> None:
    watched = await started()
    await watched.harness.coordinator.tick()
    watched.harness.pass_time(90)

    text = watched.metrics.exposition().decode()

    assert "keyflock_store_read_age_seconds 90.0" in text
    assert "keyflock_is_leader 1.0" in text
    assert "keyflock_peers 0.0" in text


async def test_a_server_that_nobody_watches_reads_no_versions() -> None:
    watched = await started()
    figures = watched.harness.coordinator.store_figures
    await watched.scrape("keyflock_ready")
    await watched.harness.coordinator.tick()

    await play(watched.harness)
    await watched.harness.coordinator.tick()
    unchanged = figures.populations()[POPULATION]
    await watched.harness.coordinator.tick()
    fresh = figures.populations()[POPULATION]

    assert unchanged.newest.version == 0
    assert fresh.newest.version == 1


async def test_a_release_shows_what_is_served_to_whom_and_since_when_it_waits() -> None:
    watched = await started()
    await play(watched.harness)
    await watched.harness.coordinator.tick()
    entries = (await watched.scrape("keyflock_audit_entries"))[""]
    await staged(watched, 10, ReleaseAction.HELD)

    watched.harness.pass_time(30)

    assert await watched.scrape("keyflock_released_version") == {"en": 0.0}
    assert await watched.scrape("keyflock_release_stage_ratio") == {"en": 0.1}
    assert await watched.scrape("keyflock_release_phase_age_seconds") == {'held",population="en': 30.0}
    assert (await watched.scrape("keyflock_audit_entries"))[""] == entries + 1


async def staged(watched: Watched, percent: int, action: ReleaseAction = ReleaseAction.STAGED) -> None:
    """Put version 1 into a stage beside version 0, or hold it there."""
    releases, now = watched.harness.store.releases, watched.harness.now
    state = await releases.newest(POPULATION)
    assert state is not None
    step = replace(
        state,
        sequence=state.sequence + 1,
        at=now,
        action=action,
        version=ModelVersion(0),
        candidate=ModelVersion(1),
        percent=percent,
    )
    audit = AuditContext(operator="ann", role="operator", reason="a test", action="release.start", at=now)
    await releases.append(step, audit=audit)


async def test_a_candidate_shows_the_gates_verdict_and_how_long_it_has_been_at_its_stage() -> None:
    watched = await started()
    await play(watched.harness)
    await watched.harness.coordinator.tick()
    before = await watched.scrape("keyflock_release_gate_verdict")
    await staged(watched, 1)
    watched.harness.pass_time(100)
    await staged(watched, 10)
    watched.harness.pass_time(30)
    await staged(watched, 10)  # a step that goes on at the same stage

    watched.harness.pass_time(5)

    assert before == {}
    assert await watched.scrape("keyflock_release_stage_age_seconds") == {"en": 35.0}
    verdicts = await watched.scrape("keyflock_release_gate_verdict")
    assert verdicts == {
        f'en",verdict="{verdict}': float(verdict == "no_data")
        for verdict in ("pass", "fail", "inconclusive", "no_data")
    }


@pytest.mark.parametrize(("repository", "read"), [("evaluations", "list_by_candidate"), ("releases", "page")])
async def test_a_candidate_that_cannot_be_judged_shows_no_verdict_and_stops_no_pass(
    monkeypatch: pytest.MonkeyPatch, repository: str, read: str
) -> None:
    watched = await started()
    await play(watched.harness)
    await watched.harness.coordinator.tick()
    await staged(watched, 1)

    async def damaged(*_: object) -> list[EvaluationRecord]:
        raise StorageDamaged("A row of the database is damaged.")

    monkeypatch.setattr(getattr(watched.harness.store, repository), read, damaged)
    watched.harness.pass_time(5)

    assert await watched.scrape("keyflock_release_gate_verdict") == {}
    assert await watched.scrape("keyflock_release_stage_age_seconds") == {"en": 5.0}


async def test_the_newest_backup_has_an_age_without_end_until_there_is_one() -> None:
    watched = await started()
    never = await watched.scrape("keyflock_newest_backup_age_seconds")
    cluster, now = watched.harness.store.cluster, watched.harness.now
    await note_backup(cluster, now - timedelta(days=3))
    await note_backup(cluster, now)

    watched.harness.pass_time(60)

    assert never == {"": math.inf}
    assert await watched.scrape("keyflock_newest_backup_age_seconds") == {"": 60.0}

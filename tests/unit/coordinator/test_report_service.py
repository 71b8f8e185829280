"""What phones send back: each report and failure at the edge of its limit, and with a call that fails."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.coordinator import Coordinator, report_service
from keyflock_server.coordinator.events import NullObserver
from keyflock_server.coordinator.task_state import OpenRound
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Failure,
    FailureCause,
    Offer,
    OfferAction,
    Receipt,
    Refusal,
    RefusalReason,
    Report,
    ReturnWindow,
)
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageError

T, FIRST = TaskName("t"), RoundId("t-1")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'
INTERRUPTED = Failure(cause=FailureCause.INTERRUPTED, session_shape="-v[!")


@dataclass
class ReportRecorder(NullObserver):
    """Records verdicts, and flushes that failed."""

    verdicts: list[tuple[str, str, int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        self.verdicts.append((task, str(verdict), count))

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        self.errors.append(f"{task}: {error}")


@pytest.fixture
async def replicas(harness: CoordinatorHarness) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """Start two processes, of which the first one leads; the harness's is the first."""
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    yield here, there
    for one in (here, there):
        await one.stop()


def open_round(coordinator: Coordinator) -> OpenRound:
    opened = coordinator.registry._states[T].open_round
    assert opened is not None
    return opened


async def problem(call: Any) -> ApiError:  # noqa: ANN401 - any call of the coordinator
    with pytest.raises(ApiError) as refused:
        await call
    return refused.value


async def fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the call would return
    raise StorageError("The disk is full.")


async def test_a_failure_that_comes_while_its_report_waits_takes_nothing_out_of_the_batch(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    await send(harness, claims[0], 1.0)

    await harness.coordinator.reports.failure(claims[0], INTERRUPTED)
    for one in claims[1:]:
        await send(harness, one, 1.0)

    (current,) = await listed_rounds(harness.coordinator, T)
    assert (current.counted, current.failed) == (4, 0)
    assert isinstance(await send(harness, claims[0], 1.0), Receipt)


@pytest.mark.parametrize("phase", ["closed", "closing"])
async def test_a_failure_that_comes_after_its_round_changes_nothing(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5")
    claims = await cohort(harness, 6)
    for one in claims[:4]:
        await send(harness, one, 1.0)
    if phase == "closing":
        monkeypatch.setattr(harness.blobs, "put", fail)
    await harness.coordinator.tick()

    ack = await harness.coordinator.reports.failure(claims[4], INTERRUPTED)

    assert (await harness.coordinator.tasks.round(FIRST)).phase == phase
    row = await harness.store.assignments.get(FIRST, claims[4].device)
    assert row is not None
    assert row.state == "assigned"
    assert ack.return_window.min_s > 0.0


async def test_a_failure_that_could_not_be_written_is_none(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    claims = await cohort(harness, 4)
    with monkeypatch.context() as broken:
        broken.setattr(harness.store.group_writer, "commit", fail)
        with pytest.raises(StorageError):
            await harness.coordinator.reports.failure(claims[0], INTERRUPTED)

    answers = [await send(harness, one, 1.0) for one in claims]

    assert answers[0] is ProblemCode.REPORT_PENDING
    assert isinstance(answers[-1], Receipt)


async def test_a_failure_for_what_another_process_has_counted_does_not_deny_it(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    here, there = replicas
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    await there.tick()
    harness.coordinator = there
    early = await there.reports.offer(claims[0], Offer(model_version=ModelVersion(0), size_bytes=1))
    harness.coordinator = here
    for one in claims:
        await send(harness, one, 1.0)

    await there.reports.failure(claims[0], INTERRUPTED)
    harness.coordinator = there
    again = await send(harness, claims[0], 1.0)

    assert early.action is OfferAction.SEND
    assert isinstance(again, Receipt)
    assert again.duplicate
    assert (await there.tasks.round(FIRST)).failed == 0


async def test_a_place_that_a_buffer_gave_out_before_is_given_back_to_the_task_and_not_to_the_next_buffer(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 12)
    for one in claims[:4]:
        await send(harness, one, 1.0)
    for _ in range(2):
        await harness.coordinator.tick()
    before = open_round(harness.coordinator).record

    await harness.coordinator.reports.failure(claims[4], INTERRUPTED)

    state = harness.coordinator.registry._states[T]
    assert open_round(harness.coordinator).record == before
    assert (before.round.id, before.round.failed, state.devices_training) == ("t-2", 0, 7)


async def test_a_place_that_is_given_back_is_free_at_once(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 12)
    full = await harness.check_in(await harness.enrol())

    await harness.coordinator.reports.failure(claims[0], INTERRUPTED)
    first, second = [await harness.check_in(await harness.enrol()) for _ in range(2)]

    assert isinstance(full, Refusal)
    assert isinstance(first, Assignment)
    assert isinstance(second, Refusal)
    (current,) = await listed_rounds(harness.coordinator, T)
    assert (current.assigned, current.failed) == (13, 1)


async def test_a_process_that_has_counted_nobody_gives_out_no_more_places_than_there_are(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(round=BUFFER)
    await there.tick()
    (claims,) = await cohort(harness, 1)

    await there.reports.failure(claims, INTERRUPTED)

    assert there.registry._states[T].slots_left == 12


async def test_a_failure_of_a_task_that_nobody_knows_is_acknowledged(harness: CoordinatorHarness) -> None:
    await harness.task()
    (claims,) = await cohort(harness, 1)

    ack = await harness.coordinator.reports.failure(replace(claims, task=TaskName("gone")), INTERRUPTED)

    assert ack.return_window == ReturnWindow(min_s=60.0, max_s=120.0)


async def test_a_decoder_that_fails_in_a_way_that_nobody_foresaw_leaves_the_place_free(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    claims = await cohort(harness, 4)

    def out_of_memory(*_: object) -> None:
        raise MemoryError("in the decoder")

    with monkeypatch.context() as broken:
        broken.setattr(open_round(harness.coordinator).batch.sum, "add", out_of_memory)
        with pytest.raises(MemoryError):
            await send(harness, claims[0], 1.0)
    left = len(open_round(harness.coordinator).batch)
    answers = [await send(harness, one, 1.0) for one in claims]

    assert left == 0
    assert isinstance(answers[-1], Receipt)
    assert (await harness.coordinator.tasks.round(FIRST)).counted == 4


async def test_another_report_for_an_assignment_whose_report_waits_is_a_conflict(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)

    answers = [await send(harness, claims[0], value) for value in (1.0, 2.0, 1.0)]
    for one in claims[1:]:
        await send(harness, one, 1.0)

    assert answers == [
        ProblemCode.REPORT_PENDING,
        ProblemCode.REPORT_CONFLICT,
        ProblemCode.REPORT_PENDING,
    ]
    assert isinstance(await send(harness, claims[0], 1.0), Receipt)


async def test_no_more_reports_wait_than_there_is_room_for(harness: CoordinatorHarness) -> None:
    object.__setattr__(harness.coordinator._deps, "max_pending_reports", 2)
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 3)

    answers = [await send(harness, one, 1.0) for one in claims]
    again = await send(harness, claims[0], 1.0)

    assert answers == [ProblemCode.REPORT_PENDING, ProblemCode.REPORT_PENDING, ProblemCode.OVERLOADED]
    assert again is ProblemCode.REPORT_PENDING


async def test_who_waits_for_its_batch_comes_again_within_half_and_a_whole_shortest_window(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8", pacing="min_s = 30.0")
    (claims,) = await cohort(harness, 1)

    pending = await problem(harness.coordinator.reports.report(claims, report(constant(1.0))))

    assert pending.code is ProblemCode.REPORT_PENDING
    assert pending.retry == ReturnWindow(min_s=15.0, max_s=30.0)


@pytest.mark.parametrize("kind", ["counted", "given back"])
async def test_who_has_done_its_work_comes_again_after_the_tasks_separation(
    harness: CoordinatorHarness, kind: str
) -> None:
    await harness.task(
        round="goal = 4\nmin_flush_clients = 1\nunsafe_single_flush = true",
        eligibility="min_separation_s = 1000.0",
        pacing="min_s = 30.0",
    )
    device = await harness.enrol()
    claims = await harness.assigned(device)

    window = (
        (await harness.coordinator.reports.report(claims, report(constant(1.0)))).return_window
        if kind == "counted"
        else (await harness.coordinator.reports.failure(claims, INTERRUPTED)).return_window
    )
    early = await harness.check_in(device)

    assert window == ReturnWindow(min_s=1000.0, max_s=1030.0)
    assert isinstance(early, Refusal)
    assert (early.reason, early.return_window) == (RefusalReason.TOO_SOON, window)


@pytest.mark.parametrize(
    ("change", "examples", "verdict"),
    [
        (lambda message: replace_delta(message, b"no delta"), 1, "malformed"),
        (lambda message: message, 257, "too_many_examples"),
    ],
    ids=["no delta", "too many examples"],
)
async def test_a_rejected_report_is_counted_by_its_cause_and_leaves_the_place_free(
    harness: CoordinatorHarness,
    change: Any,  # noqa: ANN401 - a function of a report
    examples: int,
    verdict: str,
) -> None:
    recorder = ReportRecorder()
    object.__setattr__(harness.coordinator._deps, "observer", recorder)
    await harness.task(round="goal = 8")
    (claims,) = await cohort(harness, 1)

    refused = await problem(
        harness.coordinator.reports.report(claims, change(report(constant(1.0), examples)))
    )
    at_limit = await send(harness, claims, 1.0, examples=256)
    await harness.coordinator.tick()

    assert (refused.code, at_limit) == (
        {"malformed": ProblemCode.MALFORMED_DELTA, "too_many_examples": ProblemCode.TOO_MANY_EXAMPLES}[
            verdict
        ],
        ProblemCode.REPORT_PENDING,
    )
    assert str(refused).endswith(".")
    assert recorder.verdicts == [("t", verdict, 1)]
    assert (await harness.coordinator.tasks.round(FIRST)).verdicts == {verdict: 1}


def replace_delta(message: Report, delta: bytes) -> Report:
    return Report(delta=delta, examples=message.examples)


async def test_a_phone_that_hangs_up_does_not_stop_the_flush_of_the_others(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    is_writing, may_write, commit = asyncio.Event(), asyncio.Event(), harness.store.group_writer.commit

    async def slow(*what: Any) -> Any:  # noqa: ANN401 - handed on as they came
        is_writing.set()
        await may_write.wait()
        return await commit(*what)

    monkeypatch.setattr(harness.store.group_writer, "commit", slow)
    for one in claims[:3]:
        await send(harness, one, 1.0)
    last = asyncio.create_task(send(harness, claims[3], 1.0))
    await is_writing.wait()
    last.cancel()
    await asyncio.gather(last, return_exceptions=True)
    settling = asyncio.create_task(harness.coordinator._flushes.stop())
    await asyncio.sleep(0)
    is_settled_early = settling.done()
    may_write.set()
    await settling

    assert not is_settled_early
    assert all([isinstance(await send(harness, one, 1.0), Receipt) for one in claims])


async def test_a_flush_that_breaks_after_its_phone_hung_up_is_reported(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = ReportRecorder()
    object.__setattr__(harness.coordinator._deps, "observer", recorder)
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)

    async def broken(*_: object) -> None:
        raise RuntimeError("A slip in the code.")

    monkeypatch.setattr(harness.coordinator._flusher, "flush_if_due", broken)
    for one in claims[:3]:
        await send(harness, one, 1.0)
    with pytest.raises(RuntimeError):
        await send(harness, claims[3], 1.0)
    await harness.coordinator._flushes.stop()

    assert recorder.errors == ["t: A slip in the code."]
    assert harness.coordinator._flushes._under_way == set()


async def test_who_waits_when_its_task_is_cancelled_hears_that_the_round_is_over() -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 8")
    phones = [await harness.enrol() for _ in range(2)]
    claims = [await harness.assigned(phone) for phone in phones]
    waiting = [asyncio.create_task(send(harness, one, 1.0)) for one in claims]
    while open_round(harness.coordinator).batch.sum.size.reports < 2:  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)

    await harness.forget(phones[0])
    await harness.coordinator.tasks.cancel(T, audit=AUDIT)

    assert await asyncio.gather(*waiting) == [ProblemCode.TOKEN_INVALID, ProblemCode.ROUND_GONE]
    await harness.coordinator.stop()


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_forgotten_device_hears_that_its_token_is_void(
    harness: CoordinatorHarness, *, is_over: bool
) -> None:
    await harness.task(round="goal = 4\nover_selection = 1.0")
    phones = [await harness.enrol() for _ in range(5)]
    claims = [await harness.assigned(phone) for phone in phones]
    for one in claims[:4] if is_over else ():
        await send(harness, one, 1.0)
    await harness.coordinator.tick()
    assert isinstance(await send(harness, claims[4], 1.0), ProblemCode)

    await harness.forget(phones[4])

    assert await send(harness, claims[4], 1.0) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize("versions_passed", [1, 2])
async def test_a_report_is_stale_when_more_versions_than_the_task_bears_were_published(
    harness: CoordinatorHarness, versions_passed: int
) -> None:
    await harness.task(round=BUFFER + "\nmax_staleness = 1")
    (claims,) = await cohort(harness, 1)
    older = replace(claims, model_version=ModelVersion(-versions_passed))

    offered = await harness.coordinator.reports.offer(
        older, Offer(model_version=older.model_version, size_bytes=1)
    )
    answer = await send(harness, older, 1.0)

    if versions_passed == 1:
        assert (offered.action, answer) == (OfferAction.SEND, ProblemCode.REPORT_PENDING)
    else:
        assert (offered.action, answer) == (OfferAction.DROP, ProblemCode.ROUND_GONE)
        assert offered.detail == "The model has moved on too far; check in again."


async def test_a_report_of_a_newer_version_than_its_buffer_has_its_whole_weight(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 4)

    for one in claims:
        await send(harness, replace(one, model_version=ModelVersion(3)), 1.0)

    assert (await harness.coordinator.tasks.round(FIRST)).weight == 4.0


async def test_an_assignment_is_believed_only_from_its_own_device(harness: CoordinatorHarness) -> None:
    await harness.task()
    mine, other = await cohort(harness, 2)
    forged = [
        replace(mine, assignment=AssignmentId("another")),
        replace(mine, device=other.device),
        replace(mine, assignment=other.assignment),
        replace(mine, device=type(mine.device)("f" * 32)),
    ]

    answers = [await send(harness, one, 1.0) for one in forged]

    assert answers == [ProblemCode.WRONG_ASSIGNMENT] * 4
    assert len(open_round(harness.coordinator).batch) == 0


async def test_what_has_ended_without_a_report_says_how(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    failed, expired = await cohort(harness, 2)
    await harness.coordinator.reports.failure(failed, INTERRUPTED)
    harness.pass_time(1_006.0)
    await harness.coordinator.tick()
    message = Offer(model_version=ModelVersion(0), size_bytes=1)

    offers = [await harness.coordinator.reports.offer(one, message) for one in (failed, expired)]
    problems = [
        await problem(harness.coordinator.reports.report(one, report(constant(1.0))))
        for one in (failed, expired)
    ]

    details = ["The assignment was given back.", "The assignment ran out of time."]
    assert [(one.action, one.detail) for one in offers] == [(OfferAction.DROP, one) for one in details]
    assert [(one.code, one.detail) for one in problems] == [
        (ProblemCode.ROUND_GONE, f"{one} Check in again.") for one in details
    ]


async def test_an_offer_of_another_version_is_told_to_begin_again_and_one_of_an_ended_round_to_stop(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    (claims,) = await cohort(harness, 1)
    offers = harness.coordinator.reports.offer

    other = await offers(claims, Offer(model_version=ModelVersion(7), size_bytes=1))
    good = await offers(claims, Offer(model_version=ModelVersion(0), size_bytes=1))
    over = await offers(
        replace(claims, round=RoundId("t-0")), Offer(model_version=ModelVersion(7), size_bytes=1)
    )

    assert (other.action, other.detail) == (OfferAction.REBASE, "The assignment trains from version 0.")
    assert (good.action, good.detail) == (OfferAction.SEND, "")
    assert (over.action, over.detail) == (OfferAction.DROP, "The round is over.")


async def test_where_the_goal_is_met_only_those_whose_reports_wait_are_told_to_send(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5")
    claims = await cohort(harness, 6)
    monkeypatch.setattr(harness.store.group_writer, "commit", fail)
    for one in claims[:4]:
        await send(harness, one, 1.0)
    message = Offer(model_version=ModelVersion(0), size_bytes=1)

    waiting, other = [await harness.coordinator.reports.offer(one, message) for one in claims[3:5]]

    assert waiting.action is OfferAction.SEND
    assert (other.action, other.detail) == (OfferAction.DROP, "The goal is met.")


@pytest.mark.parametrize("why", ["held", "withdrawn"])
async def test_nothing_is_taken_of_a_round_that_is_held_or_whose_version_was_withdrawn(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await harness.task(round=BUFFER)
    (claims,) = await cohort(harness, 1)
    opened = open_round(harness.coordinator)
    if why == "held":
        monkeypatch.setattr(OpenRound, "is_held", property(lambda _: True))
    else:
        opened.withdrawn = frozenset({claims.model_version})

    offered = await harness.coordinator.reports.offer(
        claims, Offer(model_version=ModelVersion(0), size_bytes=1)
    )

    assert (offered.action, offered.detail) == (OfferAction.DROP, "The round is over.")
    assert await send(harness, claims, 1.0) is ProblemCode.ROUND_GONE


async def test_a_quarantined_device_is_told_before_it_uploads(harness: CoordinatorHarness) -> None:
    await harness.task()
    (claims,) = await cohort(harness, 1)
    await harness.coordinator.quarantines.quarantine(
        claims.device, QuarantineOrder(reason="A test."), audit=AUDIT
    )

    refused = await problem(
        harness.coordinator.reports.offer(claims, Offer(model_version=ModelVersion(0), size_bytes=1))
    )

    assert refused.code is ProblemCode.QUARANTINED
    assert await send(harness, claims, 1.0) is ProblemCode.QUARANTINED
    assert len(open_round(harness.coordinator).batch) == 0


async def test_a_process_reads_all_rounds_only_for_a_report_of_one_that_is_open(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = replicas
    await harness.task(round="goal = 4\nover_selection = 0.0")
    claims = await cohort(harness, 4)
    unfinished, asked = harness.store.rounds.unfinished, []

    async def counting(*what: Any) -> Any:  # noqa: ANN401 - handed on as they came
        asked.append(what)
        return await unfinished(*what)

    with monkeypatch.context() as watched:
        watched.setattr(harness.store.rounds, "unfinished", counting)
        harness.coordinator = there  # which has not heard of the task
        for one in claims:
            await send(harness, one, 1.0)
    for coordinator in (there, here, there):
        await coordinator.tick()
    with monkeypatch.context() as watched:
        watched.setattr(harness.store.rounds, "unfinished", counting)
        before = len(asked)
        again = await send(harness, claims[0], 1.0)
        late = await send(harness, replace(claims[0], round=RoundId("t-0")), 1.0)

    assert before > 0
    assert isinstance(again, Receipt)
    assert late is ProblemCode.ROUND_GONE
    assert len(asked) == before
    assert (await here.tasks.round(FIRST)).counted == 4


@pytest.mark.parametrize("hashed_in_place_bytes", [0, 65_536])
async def test_the_digest_of_a_report_is_what_earlier_releases_have_stored(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, hashed_in_place_bytes: int
) -> None:
    """A report that was counted before an upgrade is acknowledged again after it."""
    monkeypatch.setattr(report_service, "_HASHED_IN_PLACE_BYTES", hashed_in_place_bytes)
    await harness.task(round="goal = 8\nmin_flush_clients = 1\nunsafe_single_flush = true")
    (claims,) = await cohort(harness, 1)
    message = report(constant(1.0), examples=256)

    await harness.coordinator.reports.report(claims, message)

    row = await harness.store.assignments.get(FIRST, claims.device)
    assert row is not None
    assert row.report_digest == hashlib.sha256(message.delta + b"\x00\x00\x01\x00").digest()


async def test_the_bytes_that_wait_are_those_of_every_task_with_an_open_round(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 1)
    await send(harness, claims[0], 1.0)
    await harness.task("u")
    harness.coordinator.registry._states[TaskName("u")].open_round = None

    assert harness.coordinator.reports.unattended_bytes() == len(report(constant(1.0), of=claims[0]).delta)


async def test_a_report_that_expired_on_its_way_was_no_sign_of_its_device(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5\ndeadline_s = 600.0")
    claims = await cohort(harness, 6)
    for one in claims[:4]:
        await send(harness, one, 1.0)

    too_late = await send(harness, claims[4], 1.0)  # the goal is met
    harness.pass_time(605.0)
    expired = await send(harness, claims[5], 1.0)

    assert (too_late, expired) == (ProblemCode.ROUND_GONE, ProblemCode.ROUND_GONE)
    assert set(open_round(harness.coordinator).report_arrivals) == {one.assignment for one in claims[:5]}

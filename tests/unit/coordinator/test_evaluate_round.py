"""An evaluate round: paired scores in, summed metrics out, with every promise that a training round keeps."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.evaluate_task import (
    EVALUATING,
    LAYOUT,
    SPEC,
    TASK,
    assigned,
    check_in,
    open_evaluation,
    publish_version,
    report_all,
    scores,
    scores_report,
)
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.releasing import newest
from tests.unit.coordinator.test_crash_between_steps import (
    WRITES_OF_A_ROUND,
    ProcessKilled,
    crash_after,
    revive,
)

from keyflock_compression import encode
from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import Assignment, Capabilities, Refusal, Report, TaskKind
from keyflock_server.protocol.plans import EvaluatingPlan
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.paired_sums import PairedSums, paired_difference
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.records import RoundRecord


async def test_a_round_stores_sums_and_shows_figures(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\nmax_rounds = 1")
    claims = await assigned(harness, 4)

    for one, candidate in zip(claims, [0.25, 0.25, 0.75, 0.75], strict=True):
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, scores_report(scores(candidate), of=one))
    await harness.coordinator.tick()

    closed = await harness.coordinator.tasks.round(RoundId("e-1"))
    assert (closed.phase, closed.counted, closed.weight, closed.result_version) == ("closed", 4, 4.0, None)
    assert closed.model_version == 1
    assert closed.figures is not None
    assert closed.figures["words"] == 64.0
    assert closed.figures["recall_at_3.candidate"] == 0.5
    assert closed.figures["recall_at_3.baseline"] == 0.5
    assert closed.figures["recall_at_3.difference"] == 0.0
    stored = await harness.store.evaluations.get(RoundId("e-1"))
    assert stored is not None
    assert (stored.task, stored.candidate, stored.baseline, stored.phones) == ("e", 1, 0, 4)
    difference = paired_difference(PairedSums.from_json(stored.sums_json), "recall_at_3")
    assert difference is not None
    assert (difference.users, difference.mean) == (4, 0.0)
    assert difference.deviation == pytest.approx((4 * 0.25**2 / 3) ** 0.5)
    assert (await harness.coordinator.tasks.get("e")).state == "finished"
    assert not [blob.key async for blob in harness.blobs.list_blobs() if "partials" in blob.key]


async def test_the_assignment_names_both_versions_and_what_to_measure(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    device = await harness.enrol()

    first, again = await check_in(harness, device), await check_in(harness, device)

    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert first.evaluating is not None
    assert first.task_kind is TaskKind.EVALUATE
    assert first.layout == LAYOUT.digest
    assert first.codec == SPEC.to_wire()
    baseline = await harness.coordinator.models.version(POPULATION, 0)
    assert first.model_version == 1
    assert first.evaluating == EvaluatingPlan(
        baseline_version=baseline.version,
        baseline_digest=baseline.download_digest,
        baseline_content_digest=first.evaluating.baseline_content_digest,
        metrics=("recall_at_3",),
        words_needed=50,
    )
    assert (again.id, again.evaluating) == (first.id, first.evaluating)


async def test_a_phone_that_does_not_know_the_kind_gets_no_such_work(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)

    answer = await check_in(harness, await harness.enrol(), Capabilities(tasks=("train", "personalize")))

    assert isinstance(answer, Refusal)
    assert answer.reason == "not_eligible"


async def test_a_task_waits_while_the_newest_version_is_the_released_one(harness: CoordinatorHarness) -> None:
    await open_evaluation(harness)

    waiting = await harness.coordinator.tasks.get("e")
    refused = await check_in(harness, await harness.enrol())
    await publish_version(harness)
    await harness.coordinator.tick()

    assert "nothing to compare" in waiting.waiting_reason
    assert isinstance(refused, Refusal)
    assert (await harness.coordinator.tasks.get("e")).waiting_reason == ""
    (opened,) = await listed_rounds(harness.coordinator, TaskName("e"))
    assert (opened.model_version, opened.phase) == (1, "collecting")


@pytest.mark.parametrize(("named", "version"), [("candidate", 1), ("newest", 2)])
async def test_a_round_judges_the_version_on_its_way_to_keyboards_though_there_is_a_newer_one(
    harness: CoordinatorHarness, named: str, version: int
) -> None:
    await publish_version(harness)
    await publish_version(harness)
    released = await newest(harness)
    staged = replace(
        released,
        sequence=released.sequence + 1,
        action=ReleaseAction.STAGED,
        candidate=ModelVersion(1),
        percent=10,
        evidence_json=None,
    )
    audit = AuditContext(
        operator="ann", role="admin", reason="a test", action="release.stage", at=harness.now
    )
    await harness.store.releases.append(staged, audit=audit)

    await open_evaluation(harness, evaluating=f'candidate = "{named}"')

    (opened,) = await listed_rounds(harness.coordinator, TaskName("e"))
    assert (opened.model_version, opened.baseline_version) == (version, 0)


async def test_a_version_that_is_not_there_is_told(harness: CoordinatorHarness) -> None:
    await open_evaluation(harness, evaluating="candidate = 7")

    waiting = (await harness.coordinator.tasks.get("e")).waiting_reason

    assert "no model version 7" in waiting
    assert "compares versions 7 and 0" in waiting


async def test_an_open_round_keeps_its_versions_when_a_newer_one_is_made(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    claims = await assigned(harness, 2)
    await publish_version(harness)

    later = await assigned(harness, 2)
    await report_all(harness, claims + later, scores())
    following = await assigned(harness, 1)

    assert {one.model_version for one in claims + later} == {1}
    assert following[0].model_version == 2
    stored = await harness.store.evaluations.get(RoundId("e-1"))
    assert stored is not None
    assert (stored.candidate, stored.baseline) == (1, 0)


async def test_a_device_that_trained_the_candidate_is_left_out(harness: CoordinatorHarness) -> None:
    trained = await publish_version(harness)
    await open_evaluation(harness)

    answers = [await check_in(harness, device) for device in trained]

    assert [one.reason for one in answers if isinstance(one, Refusal)] == ["not_eligible"] * 4


async def test_the_slots_transaction_leaves_out_a_device_whose_training_is_news_to_this_process(
    harness: CoordinatorHarness,
) -> None:
    trained = await publish_version(harness)
    await open_evaluation(harness)
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()

    answer = await check_in(harness, trained[0])

    assert isinstance(answer, Refusal)
    assert answer.reason == "not_eligible"


async def test_evaluating_is_no_contribution(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\nmax_rounds = 1")
    devices = [await harness.enrol() for _ in range(4)]
    claims = []
    for device in devices:
        answer = await check_in(harness, device)
        assert isinstance(answer, Assignment)
        claims.append(harness.claims(answer))

    await report_all(harness, claims, scores())

    rows = [await harness.store.devices.get(device.device) for device in devices]
    assert [row and row.last_contributed_at for row in rows] == [None] * 4
    await harness.task("t", eligibility="min_separation_s = 3600.0")
    assert isinstance(await check_in(harness, devices[0]), Assignment)


async def test_a_silence_in_an_evaluation_costs_no_claim_to_training(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\ndeadline_s = 120.0")
    device = await harness.enrol()
    await check_in(harness, device)

    harness.pass_time(121.0)
    await harness.coordinator.tick()

    row = await harness.store.devices.get(device.device)
    assert row is not None
    assert row.silences == 0
    assert harness.coordinator._deps.activity.silences(device.device) is None


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_device_is_counted_once_for_a_pair(
    harness: CoordinatorHarness, *, is_restarted: bool
) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\nselection_s = 1.0")
    devices = [await harness.enrol() for _ in range(4)]
    answers = [await check_in(harness, device) for device in devices]
    claims = [harness.claims(one) for one in answers if isinstance(one, Assignment)]
    await report_all(harness, claims, scores())
    if is_restarted:
        harness.coordinator = harness.another_coordinator()
        await harness.coordinator.start()
    harness.pass_time(300.0)

    again = [await check_in(harness, device) for device in devices for _ in range(2)]

    told = {(one.reason, one.detail) for one in again if isinstance(one, Refusal)}
    assert told == {("not_eligible", "This device has scored these two versions already.")}
    await report_all(harness, await assigned(harness, 4), scores())
    assert len(await harness.store.evaluations.list_by_candidate(POPULATION, claims[0].model_version)) == 2


async def test_a_device_whose_report_was_dropped_with_its_round_may_score_again(
    harness: CoordinatorHarness,
) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 8\nminimum = 8\ndeadline_s = 60.0")
    devices = [await harness.enrol() for _ in range(4)]
    answers = [await check_in(harness, device) for device in devices]
    claims = [harness.claims(one) for one in answers if isinstance(one, Assignment)]
    await report_all(harness, claims, scores())

    harness.pass_time(61.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(RoundId("e-1"))).phase == "abandoned"
    harness.pass_time(3_600.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    assert isinstance(await check_in(harness, devices[0]), Assignment)


async def test_a_device_may_score_the_next_version(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    devices = [await harness.enrol() for _ in range(4)]
    answers = [await check_in(harness, device) for device in devices]
    await report_all(
        harness, [harness.claims(one) for one in answers if isinstance(one, Assignment)], scores()
    )
    # The round that has opened meanwhile compares the same versions; it ends without reports.
    await publish_version(harness)
    harness.pass_time(601.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    answer = await check_in(harness, devices[0])

    assert isinstance(answer, Assignment)
    assert answer.model_version == 2


@pytest.mark.parametrize(
    ("delta", "code"),
    [
        (encode(scores() * 2, LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
        (encode(scores(candidate=1.0) * 0.5, LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
    ],
    ids=["two phones", "half a phone"],
)
async def test_a_lie_is_refused_and_moves_nothing(
    harness: CoordinatorHarness, delta: bytes, code: ProblemCode
) -> None:
    await publish_version(harness)
    await open_evaluation(harness)
    claims = await assigned(harness, 5)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(claims[0], Report(delta=delta, examples=1))
    await report_all(harness, claims[1:], scores())

    assert refused.value.code is code
    stored = await harness.store.evaluations.get(RoundId("e-1"))
    assert stored is not None
    assert PairedSums.from_json(stored.sums_json).metrics["recall_at_3"].candidate == 1.0
    assert (await harness.coordinator.tasks.round(RoundId("e-1"))).verdicts == {"evidence_bound": 1}


async def test_an_end_whose_storing_lost_its_answer_is_not_done_twice(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\nmax_rounds = 1")
    claims = await assigned(harness, 4)
    store = harness.store.rounds
    store_it = store.publish_evaluation

    async def lose_the_answer(*what: Any) -> RoundRecord:  # noqa: ANN401 - handed on as they came
        await store_it(*what)
        store.publish_evaluation = store_it  # type: ignore[method-assign]  # once only
        raise StorageError("The connection was lost after the commit.")

    store.publish_evaluation = lose_the_answer  # type: ignore[assignment, method-assign]  # the answer gets lost
    await report_all(harness, claims, scores())
    await harness.coordinator.tick()

    closed = await harness.coordinator.tasks.round(RoundId("e-1"))
    assert (closed.phase, closed.counted) == ("closed", 4)
    assert len(await harness.store.evaluations.list_by_task(TaskName("e"), 10)) == 1


async def test_two_tasks_would_ask_the_same_phones_for_the_same(harness: CoordinatorHarness) -> None:
    await open_evaluation(harness)
    another = f"{TASK}[round]\ngoal = 4\n".replace('"e"', '"f"')

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.tasks.create(parse_task(another), audit=AUDIT)
    await harness.coordinator.tasks.create(parse_task(f"{another}[evaluating]\ncandidate = 3\n"), audit=AUDIT)

    assert refused.value.code is ProblemCode.CONFLICT


async def test_a_device_is_counted_once_for_a_pair_whichever_task_asks(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await open_evaluation(harness, "goal = 4\nmax_rounds = 1")
    by_numbers = f"{TASK}[round]\ngoal = 4\n[evaluating]\ncandidate = 1\nbaseline = 0\n".replace('"e"', '"f"')
    await harness.coordinator.tasks.create(parse_task(by_numbers), audit=AUDIT)
    await harness.coordinator.tick()
    waiting = await harness.coordinator.tasks.get("f")
    devices = [await harness.enrol() for _ in range(4)]
    answers = [await check_in(harness, device) for device in devices for _ in range(2)]
    claims = {one.id: harness.claims(one) for one in answers if isinstance(one, Assignment)}
    await report_all(harness, list(claims.values()), scores())
    await harness.coordinator.tick()

    again = [await check_in(harness, device) for device in devices]

    assert "Round e-1 compares versions 1 and 0" in waiting.waiting_reason
    assert {one.task for one in claims.values()} == {"e"}
    assert [one.phase for one in await listed_rounds(harness.coordinator, TaskName("f"))] == ["collecting"]
    assert {one.reason for one in again if isinstance(one, Refusal)} == {"not_eligible"}
    (another,) = await assigned(harness, 1)
    assert another.task == "f"


async def test_training_and_evaluating_go_on_beside_each_other(harness: CoordinatorHarness) -> None:
    await publish_version(harness)
    await harness.task("u", round="goal = 4")
    await open_evaluation(harness, evaluating=f"candidate = 1\n{EVALUATING}")
    answers = [await check_in(harness, await harness.enrol()) for _ in range(12)]
    claims = [harness.claims(answer) for answer in answers if isinstance(answer, Assignment)]

    for one in [one for one in claims if one.task == "u"]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    await report_all(harness, [one for one in claims if one.task == "e"][:4], scores())

    assert (await harness.coordinator.tasks.round(RoundId("u-1"))).result_version == 2
    assert (await harness.coordinator.tasks.round(RoundId("e-1"))).phase == "closed"


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_survives_a_crash_at_every_write(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await publish_version(harness)
        await open_evaluation(harness, "goal = 8\nmax_rounds = 2")
        claims = await assigned(harness, 8)

        crash_after(harness, writes, after_write=after_write)
        for one in claims:
            with contextlib.suppress(ApiError, ProcessKilled):
                await harness.coordinator.reports.report(one, scores_report(scores(), of=one))
        with contextlib.suppress(ProcessKilled):
            await harness.coordinator.tick()
        revive(harness)
        await harness.coordinator.start()
        await report_all(harness, claims, scores())

        rounds = await listed_rounds(harness.coordinator, claims[0].task)
        assert (rounds[0].phase, rounds[0].counted) == (Phase.CLOSED, 8), f"after {writes} writes"
        (stored,) = await harness.store.evaluations.list_by_task(claims[0].task, 10)
        sums = PairedSums.from_json(stored.sums_json)
        assert (sums.users, sums.metrics["recall_at_3"].candidate) == (8, 2.0), f"after {writes} writes"
        await harness.coordinator.stop()

"""The steps that end a round: what each needs, what it leaves behind, and what it says when it cannot."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.unit.coordinator.diverging_task import BECAUSE, held_round
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_populations, listed_rounds
from tests.unit.coordinator.personalize_task import assigned, evidence, evidence_report, open_task
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.aggregation.norm_scale import MIN_NORMS
from keyflock_server.coordinator.events import NullObserver
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.model_version import download_digest
from keyflock_server.rounds.round import CloseRequested, Merged, Phase, Stepped
from keyflock_server.storage.errors import StorageError, Superseded
from keyflock_server.storage.records import RoundRecord, StagedVersion

T, FIRST = TaskName("t"), RoundId("t-1")
#: Figures of a step that passes every check.
ORDINARY = '{"step_norm":1.0,"step_row_norm":1.0,"mean_delta_norm":1.0,"mean_delta_row_norm":1.0}'


@dataclass
class PublicationRecorder(NullObserver):
    """Records what was published."""

    versions: list[tuple[str, int]] = field(default_factory=list)
    priors: list[tuple[str, int]] = field(default_factory=list)

    def version_published(self, population: PopulationName, version: int) -> None:
        self.versions.append((population, version))

    def priors_published(self, population: PopulationName, phones: int) -> None:
        self.priors.append((population, phones))


async def fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the call would return
    raise StorageError("The disk is full.")


async def count_reports(harness: CoordinatorHarness, reports: int, value: float = 1.0) -> None:
    for one in await cohort(harness, reports):
        await send(harness, one, value)


async def play_round(harness: CoordinatorHarness, value: float = 1.0) -> None:
    """Play one round of four phones to its end."""
    await count_reports(harness, 4, value)
    await harness.coordinator.tick()


async def keys(harness: CoordinatorHarness, kind: str) -> set[str]:
    return {blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith(f"{kind}/")}


async def version_keys(harness: CoordinatorHarness) -> set[str]:
    """Return the blobs that the versions' rows point to."""
    versions = await harness.store.populations.versions()
    return {key for one in versions for key in (one.checkpoint_key, one.download_key)}


async def stored_round(harness: CoordinatorHarness, id_: RoundId = FIRST) -> RoundRecord:
    record = await harness.store.rounds.get(id_)
    assert record is not None
    return record


async def test_a_partial_aggregate_without_its_row_is_missed_and_nothing_is_made_of_the_others(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    await count_reports(harness, 4)
    rows: dict[Any, Any] = harness.store.rounds._rows.partials  # type: ignore[attr-defined]  # the fake's own
    (lost,) = list(rows)
    partial = rows.pop(lost)

    await harness.coordinator.tick()
    stuck = await harness.coordinator.tasks.round(FIRST)
    rows[lost] = partial
    await harness.coordinator.tick()

    assert (stuck.phase, stuck.detail) == (
        "closing",
        "Round t-1 counted 4 reports, its partials hold 0; restore the database and the blobs of one moment.",
    )
    assert (await stored_round(harness)).round.phase is Phase.CLOSED


async def test_a_sum_that_is_damaged_is_named_with_what_to_do(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    await count_reports(harness, 4)
    (key,) = await keys(harness, "partials")
    await harness.blobs.put(key, (await harness.blobs.get(key))[:-8] + bytes(8))

    await harness.coordinator.tick()

    stuck = await harness.coordinator.tasks.round(FIRST)
    assert stuck.detail.startswith(f"Blob {key} is damaged (")
    assert stuck.detail.endswith("); restore it from a backup, or cancel the task.")


async def test_a_version_tells_where_it_comes_from_and_of_how_many_reports(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 12\nminimum = 8\ndeadline_s = 100.0")
    await count_reports(harness, 5)
    harness.pass_time(101)
    await harness.coordinator.tick()  # four of them are carried into the next round
    await count_reports(harness, 8)
    await harness.coordinator.tick()

    made = (await harness.coordinator.models.checkpoint(POPULATION, 1)).lineage

    assert {name: made[name] for name in ("parent", "round", "reports")} == {
        "parent": "0",
        "round": "t-2",
        "reports": "12",
    }


async def test_what_a_version_is_stored_with_is_true_of_its_bytes(harness: CoordinatorHarness) -> None:
    recorder = PublicationRecorder()
    object.__setattr__(harness.coordinator._deps, "observer", recorder)
    await harness.task(round="goal = 4")

    await play_round(harness)

    version = await harness.store.populations.version(POPULATION, ModelVersion(1))
    assert version is not None
    body = await harness.blobs.get(version.download_key)
    assert (version.download_bytes, version.download_digest) == (len(body), download_digest(body))
    assert (version.parent, version.round_id, version.created_at) == (0, FIRST, harness.now)
    assert (version.note, version.released_key) == ("", None)
    for key in (version.checkpoint_key, version.download_key):
        assert key.startswith("versions/en/1-")
    assert recorder.versions == [(POPULATION, 1)]


async def test_a_round_that_has_ended_leaves_the_blobs_of_its_version_and_of_nothing_else(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", optimizer='name = "fedadam"')
    for _ in range(2):
        await play_round(harness)

    task = await harness.store.tasks.get(T)
    assert task is not None
    assert await keys(harness, "optimizers") == {task.optimizer_state_key}
    assert await keys(harness, "versions") == await version_keys(harness)
    assert await keys(harness, "aggregates") == await keys(harness, "partials") == set()
    for id_ in (FIRST, RoundId("t-2")):
        ended = await stored_round(harness, id_)
        assert ended.blob_keys == ()
        assert ended.staged == StagedVersion(stepped_from=ModelVersion(ended.round.sequence - 1))


async def test_a_blob_that_cannot_be_deleted_keeps_no_round_from_ending(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4", optimizer='name = "fedadam"')
    monkeypatch.setattr(harness.blobs, "delete", fail)

    for _ in range(2):
        await play_round(harness)

    rounds = await listed_rounds(harness.coordinator, T)
    assert [(one.phase, one.detail) for one in rounds] == [("closed", ""), ("closed", ""), ("collecting", "")]
    assert len(await keys(harness, "optimizers")) == 2


async def test_a_step_that_another_task_overtook_is_made_again_and_leaves_nothing_of_the_first(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("t", "u"):
        await harness.task(name, round="goal = 4\nover_selection = 0.0\nmax_rounds = 1")
    rounds, publish = harness.store.rounds, harness.store.rounds.publish

    async def all_but_the_first(round_id: RoundId, *what: Any) -> RoundRecord:  # noqa: ANN401 - handed on
        return await (fail() if round_id == FIRST else publish(round_id, *what))

    with monkeypatch.context() as away:
        away.setattr(rounds, "publish", all_but_the_first)
        await count_reports(harness, 8)
        await harness.coordinator.tick()  # the first has stepped, and the other one publishes
    stepped = await stored_round(harness)
    await harness.coordinator.tick()

    assert stepped.round.phase is Phase.STEPPED
    assert stepped.staged is not None
    ended = await stored_round(harness)
    assert (ended.round.result_version, ended.staged) == (2, StagedVersion(stepped_from=ModelVersion(1)))
    assert await keys(harness, "versions") == await version_keys(harness)
    assert set(stepped.staged.blob_keys).isdisjoint(await version_keys(harness))
    assert len(await keys(harness, "optimizers")) == 2


@pytest.mark.parametrize("staged", [None, StagedVersion(stepped_from=ModelVersion(0))], ids=["none", "empty"])
async def test_a_step_of_an_earlier_release_that_was_not_measured_is_made_again(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, staged: StagedVersion | None
) -> None:
    await harness.task(round="goal = 4")
    await count_reports(harness, 4)
    with monkeypatch.context() as away:
        away.setattr(harness.store.tasks, "get", fail)  # the step cannot begin
        await harness.coordinator.tick()
    await harness.store.rounds.advance(FIRST, Stepped(""), harness.now, {"staged": staged})

    await harness.coordinator.tick()

    ended = await harness.coordinator.tasks.round(FIRST)
    assert (ended.phase, ended.result_version) == ("closed", 1)
    assert ended.figures is not None
    assert ended.figures["step_norm"] == ended.figures["mean_delta_norm"] > 0.0


@pytest.mark.parametrize("lost", ["download_key", "checkpoint_key", "state_key"])
async def test_a_step_that_has_lost_one_of_its_blobs_is_not_published(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    await harness.task(round="goal = 4")
    await count_reports(harness, 4)
    with monkeypatch.context() as away:
        away.setattr(harness.store.tasks, "get", fail)
        await harness.coordinator.tick()
    blobs = {"download_key": "d", "checkpoint_key": "c", "state_key": "s"} | {lost: None}
    await harness.blobs.put("d", b"download")
    staged = StagedVersion(stepped_from=ModelVersion(0), **blobs)
    await harness.store.rounds.advance(FIRST, Stepped(ORDINARY), harness.now, {"staged": staged})

    await harness.coordinator.tick()

    stuck = await harness.coordinator.tasks.round(FIRST)
    assert stuck.phase == "stepped"
    assert stuck.detail == "Round t-1 has lost what its step wrote; restore the database."
    assert [one.version for one in await harness.store.populations.versions()] == [0]


async def test_a_round_without_its_aggregate_says_so(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    for event in (CloseRequested(), Merged()):
        await harness.store.rounds.advance(FIRST, event, harness.now, {})

    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(FIRST)).detail == (
        "Round t-1 has lost its task or its aggregate; restore the database."
    )


async def test_a_round_of_evidence_without_its_aggregate_says_so(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    for event in (CloseRequested(), Merged()):
        await harness.store.rounds.advance(RoundId("p-1"), event, harness.now, {})

    await harness.coordinator.tick()

    assert (await harness.coordinator.tasks.round(RoundId("p-1"))).detail == (
        "Round p-1 has lost its aggregate; restore the database."
    )


async def test_a_round_whose_row_is_gone_says_so_and_is_not_asked_for_for_ever(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4")
    await count_reports(harness, 4)
    get, asked = harness.store.rounds.get, []

    async def superseded(*_: object) -> RoundRecord:
        raise Superseded(FIRST)

    async def gone(round_id: RoundId) -> RoundRecord | None:
        asked.append(round_id)
        return None if len(asked) < 9 else await get(round_id)

    opened = harness.coordinator.registry._states[T].open_round
    assert opened is not None
    monkeypatch.setattr(harness.store.rounds, "get", gone)
    await harness.store.rounds.advance(FIRST, CloseRequested(), harness.now, {})
    monkeypatch.setattr(harness.store.rounds, "advance", superseded)
    await harness.coordinator.tick()

    assert harness.coordinator.registry._states[T].last_error == "Round t-1 is gone; restore the database."
    assert len(asked) == 1


async def test_what_an_operator_has_accepted_is_published_and_not_held_again_and_again(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await held_round(harness)
    get, asked = harness.store.rounds.get, []

    async def a_few_times(round_id: RoundId) -> RoundRecord | None:
        asked.append(round_id)
        assert len(asked) < 20, "The same step is tried for ever."
        return await get(round_id)

    await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    monkeypatch.setattr(harness.store.rounds, "get", a_few_times)
    await harness.coordinator.tick()
    monkeypatch.undo()

    accepted = await harness.coordinator.tasks.round(FIRST)
    version = await harness.store.populations.version(POPULATION, ModelVersion(1))
    assert (accepted.phase, accepted.result_version) == ("closed", 1)
    assert version is not None
    assert version.note == accepted.detail
    assert BECAUSE.reason in version.note


@pytest.mark.parametrize(("minimum", "phones"), [(4, 4), (6, 0)], ids=["the minimum", "fewer"])
async def test_priors_are_not_made_of_fewer_phones_than_the_task_wants(
    harness: CoordinatorHarness, minimum: int, phones: int
) -> None:
    recorder = PublicationRecorder()
    object.__setattr__(harness.coordinator._deps, "observer", recorder)
    await open_task(harness, f"goal = 8\nminimum = {minimum}\nmax_rounds = 1")
    for one in await assigned(harness, 4):
        try:
            await harness.coordinator.reports.report(one, evidence_report(evidence(), of=one))
        except ApiError:
            continue
    await harness.store.rounds.advance(RoundId("p-1"), CloseRequested(), harness.now, {})

    await harness.coordinator.tick()

    (population,) = await listed_populations(harness.coordinator)
    assert (await stored_round(harness, RoundId("p-1"))).round.phase is Phase.CLOSED
    assert (population.personalisation or {"phones": 0})["phones"] == phones
    assert recorder.priors == [(POPULATION, 4)]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_norm_scales_move_with_the_norms_of_a_round_unless_its_sum_is_lost_after_its_step(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    goal = f"goal = {MIN_NORMS}"
    await harness.task(round=goal, aggregation="clip_norm_ratio = 0.0\nmax_norm_ratio = 1000.0")
    await count_reports(harness, MIN_NORMS)
    with monkeypatch.context() as away:
        away.setattr(harness.store.rounds, "publish", fail)
        await harness.coordinator.tick()
    before = await harness.store.tasks.get(T)
    for key in await keys(harness, "aggregates") if is_lost else ():
        await harness.blobs.delete(key)

    await harness.coordinator.tick()

    after = await harness.store.tasks.get(T)
    assert before is not None
    assert after is not None
    assert (await stored_round(harness)).round.phase is Phase.CLOSED
    assert (after.norm_scales_json == before.norm_scales_json) is is_lost


async def test_a_report_of_a_round_that_is_stuck_is_still_acknowledged(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)
    for one in claims:
        await send(harness, one, 1.0)
    monkeypatch.setattr(harness.blobs, "put", fail)

    await harness.coordinator.tick()

    stuck = await harness.coordinator.tasks.round(FIRST)
    assert (stuck.phase, stuck.detail) == ("closing", "The disk is full.")
    assert (
        await harness.coordinator.reports.report(claims[0], report(constant(1.0), of=claims[0]))
    ).duplicate

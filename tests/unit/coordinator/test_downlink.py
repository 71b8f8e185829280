"""Deltas between versions: exact, made once, bounded, and never a reason for a failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.memory_store.blobs import MemoryBlobStore
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report

from keyflock_compression import apply_weights_delta, content_digest, decode_weights, encode_weights_delta
from keyflock_server.coordinator import downlink
from keyflock_server.coordinator.downlink import MAX_BASES
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.model_version import Download
from keyflock_server.storage.errors import StorageUnavailable

if TYPE_CHECKING:
    from keyflock_server.coordinator import Coordinator

TRAINING, RELEASED = ModelWeights.TRAINING, ModelWeights.RELEASED
START = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)


async def harness_with(
    versions: int, harness: CoordinatorHarness | None = None, **tables: str
) -> CoordinatorHarness:
    """Return a harness whose model has this many versions beside version 0."""
    harness = harness or CoordinatorHarness(ack_wait_s=10.0, is_real_time=True)
    await harness.coordinator.start()
    await harness.create_population(START)
    await harness.task(round="goal = 4\nover_selection = 0.0", **tables)
    phones = [await harness.enrol() for _ in range(4)]
    for number in range(versions):
        claims = [await harness.assigned(phone) for phone in phones]
        delta = constant(0.0)
        delta[number % LAYOUT.size] = 0.01
        await asyncio.gather(
            *(harness.coordinator.reports.report(claim, report(delta, of=claim)) for claim in claims)
        )
        await harness.coordinator.tick()
        harness.pass_time(61.0)  # when their windows begin
        await harness.coordinator.tick()
    return harness


async def body(harness: CoordinatorHarness, version: int, weights: ModelWeights = TRAINING) -> Download:
    of = (
        harness.coordinator.models.training_model
        if weights is TRAINING
        else harness.coordinator.models.released_model
    )
    return await of(POPULATION, version)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Record every delta that is computed, as (after, before)."""
    pairs: list[tuple[bytes, bytes]] = []

    def encoded(after: bytes, before: bytes) -> bytes:
        pairs.append((after, before))
        return encode_weights_delta(after, before)

    monkeypatch.setattr(downlink, "encode_weights_delta", encoded)
    return pairs


async def test_a_phone_gets_the_delta_from_the_nearest_version_that_it_has(
    made: list[tuple[bytes, bytes]],
) -> None:
    harness = await harness_with(3)
    has = [(await body(harness, version)).digest for version in (0, 2)]

    delta = await harness.coordinator.downlink.delta(POPULATION, 3, TRAINING, has)

    assert delta is not None
    assert delta.base == has[1]
    assert made == [((await body(harness, 3)).body, (await body(harness, 2)).body)]


async def test_what_a_phone_puts_together_is_what_the_assignment_names() -> None:
    harness = await harness_with(1)
    before, after = await body(harness, 0), await body(harness, 1)
    harness.pass_time(150.0)  # from now on everybody is taken
    assignment = await harness.check_in(await harness.enrol())
    assert isinstance(assignment, Assignment)
    assert assignment.content_digest is not None

    delta = encode_weights_delta(after.body, before.body)
    phones = apply_weights_delta(delta, before.body, result=assignment.content_digest)

    assert assignment.model_digest == after.digest
    np.testing.assert_array_equal(decode_weights(phones, LAYOUT), await harness.model(1))


async def test_a_delta_that_is_not_smaller_than_the_whole_is_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = await harness_with(1)
    monkeypatch.setattr(downlink, "encode_weights_delta", lambda after, _: bytes(len(after)))

    assert (
        await harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, [(await body(harness, 0)).digest])
        is None
    )


async def test_a_thousand_phones_that_ask_at_once_cost_one_computation(
    made: list[tuple[bytes, bytes]],
) -> None:
    harness = await harness_with(1)
    has = [(await body(harness, 0)).digest]

    deltas = await asyncio.gather(
        *(harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, has) for _ in range(1_000))
    )

    assert len(set(deltas)) == len(made) == 1


async def test_a_version_that_is_too_far_behind_is_no_base(made: list[tuple[bytes, bytes]]) -> None:
    harness = await harness_with(MAX_BASES)
    oldest, next_one = [(await body(harness, version)).digest for version in (0, 1)]

    assert await harness.coordinator.downlink.delta(POPULATION, MAX_BASES, TRAINING, [oldest]) is None
    assert await harness.coordinator.downlink.delta(POPULATION, MAX_BASES, TRAINING, [next_one]) is not None
    assert len(made) == 1


async def test_a_version_that_is_too_old_is_no_target_either(made: list[tuple[bytes, bytes]]) -> None:
    harness = await harness_with(MAX_BASES)
    newest = (await body(harness, MAX_BASES)).digest

    assert await harness.coordinator.downlink.delta(POPULATION, 0, TRAINING, [newest]) is None
    assert made == []


async def test_unknown_bases_and_those_of_another_population_are_none() -> None:
    harness = await harness_with(1)
    await harness.create_other_population(PopulationName("de"))
    theirs = (await harness.coordinator.models.training_model(PopulationName("de"), 0)).digest
    ours = (await body(harness, 0)).digest

    for has in ([], [bytes(32)], [b""], [theirs], [(await body(harness, 1)).digest]):
        assert await harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, has) is None
    assert theirs != ours
    assert await harness.coordinator.downlink.delta(PopulationName("de"), 0, TRAINING, [ours]) is None


async def test_a_version_that_is_not_there_is_unknown_here_too() -> None:
    harness = await harness_with(0)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.downlink.delta(POPULATION, 9, TRAINING, [bytes(32)])
    assert refused.value.code is ProblemCode.MODEL_UNKNOWN


async def test_released_averages_are_bases_and_have_deltas(made: list[tuple[bytes, bytes]]) -> None:
    harness = await harness_with(2, release="ema_decay = 0.5")
    trained, average = await body(harness, 2, TRAINING), await body(harness, 2, RELEASED)
    assert trained.digest != average.digest

    of_average = await harness.coordinator.downlink.delta(
        POPULATION, 2, RELEASED, [(await body(harness, 1, RELEASED)).digest, (await body(harness, 1)).digest]
    )
    of_trained = await harness.coordinator.downlink.delta(POPULATION, 2, TRAINING, [average.digest])

    assert of_average is not None
    assert of_average.base == (await body(harness, 1, RELEASED)).digest
    assert of_trained is not None
    assert [pair[0] for pair in made] == [average.body, trained.body]
    release = await harness.coordinator.downlink.release(POPULATION)
    assert release.content_digest == content_digest(average.body)


async def test_a_restart_and_a_replica_give_the_same_delta() -> None:
    harness = await harness_with(2)
    has = [(await body(harness, 1)).digest]
    restarted, replica = harness.another_coordinator(), harness.another_coordinator("b")
    coordinators: list[Coordinator] = [harness.coordinator, restarted, replica]

    deltas = [await one.downlink.delta(POPULATION, 2, TRAINING, has) for one in coordinators]

    assert deltas[0] is not None
    assert deltas.count(deltas[0]) == 3


class FragileBlobStore(MemoryBlobStore):
    """A blob store in which some blobs are lost, damaged or unreachable."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[str] = set()
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.reads = 0

    def hang(self) -> None:
        """Answer nothing until ``answers`` is set."""
        self.answers.clear()
        self.asked.clear()

    async def get(self, key: str) -> bytes:
        self.reads += 1
        self.asked.set()
        await self.answers.wait()
        if self.is_away:
            raise StorageUnavailable("gone")
        data = await super().get(key)
        return data[:-1] + b"?" if key in self.damaged else data


async def fragile(versions: int) -> tuple[CoordinatorHarness, FragileBlobStore, list[str]]:
    """Return a harness after a restart, so that nothing is cached, and the keys of its downloads."""
    blobs = FragileBlobStore()
    harness = await harness_with(
        versions, CoordinatorHarness(blobs=blobs, ack_wait_s=10.0, is_real_time=True)
    )
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    records = [await harness.store.populations.version(POPULATION, number) for number in range(versions + 1)]  # type: ignore[arg-type]  # numbers are versions here
    return harness, blobs, [record.download_key for record in records if record]


async def test_a_base_that_is_lost_or_damaged_only_means_the_whole() -> None:
    harness, blobs, keys = await fragile(2)
    digests = [record.download_digest for record in await harness.store.populations.versions()]
    await blobs.delete(keys[0])
    blobs.damaged = {keys[1]}

    for digest in digests[:2]:
        assert await harness.coordinator.downlink.delta(POPULATION, 2, TRAINING, [digest]) is None


async def test_while_the_blob_store_is_away_who_can_be_served_gets_the_whole_at_once() -> None:
    harness, blobs, _ = await fragile(2)
    target, base = await body(harness, 2), (await harness.store.populations.versions())[0].download_digest
    blobs.is_away, blobs.reads = True, 0

    for _ in range(3):
        assert await harness.coordinator.downlink.delta(POPULATION, 2, TRAINING, [base]) is None
    assert (await body(harness, 2), blobs.reads) == (target, 1)

    blobs.is_away = False
    harness.pass_time(31.0)
    assert await harness.coordinator.downlink.delta(POPULATION, 2, TRAINING, [base]) is not None


async def test_no_check_in_waits_for_a_blob_store_that_is_away() -> None:
    harness, blobs, _ = await fragile(1)
    blobs.is_away, blobs.reads = True, 0
    phone = await harness.enrol()
    while not isinstance(await harness.check_in(phone), Assignment):
        phone = await harness.enrol()

    answers = [await harness.check_in(phone) for _ in range(3)]
    blobs.is_away = False
    harness.pass_time(31.0)
    later = await harness.check_in(phone)

    assert [one.content_digest for one in answers if isinstance(one, Assignment)] == [None, None, None]
    assert isinstance(later, Assignment)
    assert later.content_digest == content_digest((await body(harness, 1)).body)
    assert blobs.reads == 2  # the one that was in vain, and the one that was not


async def test_who_hangs_up_takes_a_delta_from_nobody(made: list[tuple[bytes, bytes]]) -> None:
    harness, blobs, _ = await fragile(1)
    base = (await harness.store.populations.versions())[0].download_digest
    blobs.hang()
    first, second = (
        asyncio.create_task(harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, [base]))
        for _ in range(2)
    )
    await blobs.asked.wait()

    first.cancel()
    await asyncio.wait({first})
    blobs.answers.set()

    assert first.cancelled()
    assert await second is not None
    assert len(made) == 1


async def test_a_delta_that_is_there_waits_for_no_other() -> None:
    harness, blobs, _ = await fragile(3)
    digests = [record.download_digest for record in await harness.store.populations.versions()]
    ready = await harness.coordinator.downlink.delta(POPULATION, 3, TRAINING, [digests[2]])
    blobs.hang()
    other = asyncio.create_task(harness.coordinator.downlink.delta(POPULATION, 3, TRAINING, [digests[0]]))
    await blobs.asked.wait()

    again = await asyncio.wait_for(
        harness.coordinator.downlink.delta(POPULATION, 3, TRAINING, [digests[2]]), timeout=120.0
    )
    blobs.answers.set()

    assert again == ready
    assert await other is not None


async def test_nobody_waits_long_for_a_blob_store_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downlink, "MAX_WAIT_S", 0.0)
    harness, blobs, _ = await fragile(1)
    base = (await harness.store.populations.versions())[0].download_digest
    blobs.hang()

    release = await harness.coordinator.downlink.release(POPULATION)
    assert release.content_digest is None
    assert await harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, [base]) is None

    blobs.answers.set()
    while (release := await harness.coordinator.downlink.release(POPULATION)).content_digest is None:  # noqa: ASYNC110 - nobody waits
        await asyncio.sleep(0)
    assert release.content_digest == content_digest((await body(harness, 1)).body)
    while await harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, [base]) is None:  # noqa: ASYNC110 - nobody waits
        await asyncio.sleep(0)


async def test_a_coordinator_that_stops_gives_up_what_it_makes() -> None:
    harness, blobs, _ = await fragile(1)
    base = (await harness.store.populations.versions())[0].download_digest
    blobs.hang()
    asked = asyncio.create_task(harness.coordinator.downlink.delta(POPULATION, 1, TRAINING, [base]))
    await blobs.asked.wait()

    await harness.coordinator.stop()

    assert await asked is None


async def test_memory_is_bounded_by_bytes(
    monkeypatch: pytest.MonkeyPatch, made: list[tuple[bytes, bytes]]
) -> None:
    monkeypatch.setattr(downlink, "MAX_DELTA_BYTES", 1_200)
    harness = await harness_with(3)
    bases = [(await body(harness, version)).digest for version in range(3)]

    for _ in range(2):
        for base in bases:
            await harness.coordinator.downlink.delta(POPULATION, 3, TRAINING, [base])

    assert len(made) == 6  # two fit; the third drives out the first

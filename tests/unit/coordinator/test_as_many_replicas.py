"""Two or three replicas make the same model version as one: exact where sums are exact, else to 1e-6."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.memory_store.store import MemoryStore
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, report

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.problems import ApiError
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.sql.store import SqlStore

TASK = TaskName("t")
PHONES, ROUNDS = 24, 2
Deltas = Callable[[int], NDArray[np.float32]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], RecordStore]:
    """Return a factory of empty stores for a number of replicas, each with its own connection."""
    urls: dict[int, str] = {}

    def make(replicas: int) -> RecordStore:
        match request.param:
            case "memory":
                return MemoryStore()
            case "sqlite":
                return SqlStore(f"sqlite+aiosqlite:///{tmp_path / f'{replicas}.sqlite3'}")
            case _:
                if replicas not in urls:
                    server = request.getfixturevalue("postgres_server")
                    name = server.create()
                    request.addfinalizer(lambda: server.drop(name))
                    urls[replicas] = server.url(name)
                return SqlStore(urls[replicas])

    return make


def whole(phone: int) -> NDArray[np.float32]:
    """Return small whole numbers, for which every order of additions gives the same bits."""
    return np.random.default_rng(phone).integers(-8, 9, LAYOUT.size).astype(np.float32)


def arbitrary(phone: int) -> NDArray[np.float32]:
    """Return a delta as phones send it, which is rounded at every addition."""
    return np.random.default_rng(phone).standard_normal(LAYOUT.size).astype(np.float32)


async def trained(store: RecordStore, replicas: int, deltas: Deltas) -> NDArray[np.float32]:
    """Return the master weights after some rounds whose phones spread over the replicas."""
    harness = CoordinatorHarness(store=store)
    all_of_them = [harness.another_coordinator(f"replica-{number}") for number in range(replicas)]
    for replica in all_of_them:
        await replica.start()
    harness.coordinator = all_of_them[0]
    await harness.create_population()
    await harness.task(
        round=f"goal = {PHONES}\nover_selection = 0.0\nmax_rounds = {ROUNDS}",
        optimizer='name = "fedadam"',
        aggregation="max_norm_ratio = 0.0\nclip_norm_ratio = 0.0",
    )
    for sequence in range(ROUNDS):
        for replica in all_of_them:
            await replica.tick()
        claims = []
        for number in range(PHONES):
            harness.coordinator = all_of_them[number % replicas]
            claims.append(await harness.assigned(await harness.enrol()))
        for number, one in enumerate(claims):
            # Examples as phones have them: the weights differ.
            message = report(deltas(sequence * PHONES + number), examples=1 + number % 5)
            try:
                await all_of_them[(number + 1) % replicas].reports.report(one, message)
            except ApiError:
                continue  # it waits for its batch
        for _ in range(2):
            for replica in all_of_them:
                await replica.tick()
    population = await store.populations.get(POPULATION)
    assert population is not None
    assert population.latest_version == ROUNDS
    partials = {
        record.round.sequence: record.round.counted for record in await store.rounds.list_by_task(TASK)
    }
    assert partials == {1: PHONES, 2: PHONES}
    weights = (await all_of_them[0].models.checkpoint(POPULATION, ROUNDS)).weights
    for replica in all_of_them:
        await replica.stop()
    return weights


@pytest.fixture
async def alone() -> dict[Deltas, NDArray[np.float32]]:
    """Return the weights that one process makes from the same phones."""
    return {deltas: await trained(MemoryStore(), 1, deltas) for deltas in (whole, arbitrary)}


@pytest.mark.parametrize("replicas", [2, 3])
async def test_more_replicas_make_the_same_version_bit_for_bit_where_sums_are_exact(
    new_store: Callable[[int], RecordStore], alone: dict[Deltas, NDArray[np.float32]], replicas: int
) -> None:
    weights = await trained(new_store(replicas), replicas, whole)

    assert alone[whole].any()
    np.testing.assert_array_equal(weights, alone[whole])


@pytest.mark.parametrize("replicas", [2, 3])
async def test_more_replicas_make_the_same_version_to_a_millionth_whatever_phones_send(
    new_store: Callable[[int], RecordStore], alone: dict[Deltas, NDArray[np.float32]], replicas: int
) -> None:
    weights = await trained(new_store(replicas), replicas, arbitrary)

    assert np.abs(alone[arbitrary]).max() > 1e-3
    np.testing.assert_allclose(weights, alone[arbitrary], rtol=0, atol=1e-6)

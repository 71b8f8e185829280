"""Two or three replicas make the same model version as one: exact where sums are exact, else to 1e-6."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.town import LAYOUT, POPULATION, Town, report

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.problems import Refused
from keyflock_server.storage.door import Store
from keyflock_server.storage.memory import MemoryStore
from keyflock_server.storage.sql.store import SqlStore

TASK = TaskName("t")
PHONES, ROUNDS = 24, 2
Deltas = Callable[[int], NDArray[np.float32]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Store]:
    """Makes an empty store for so many replicas, and the connection of each to it."""
    urls: dict[int, str] = {}

    def make(replicas: int) -> Store:
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
    """Small whole numbers: every order of additions gives the same bits."""
    return np.random.default_rng(phone).integers(-8, 9, LAYOUT.size).astype(np.float32)


def arbitrary(phone: int) -> NDArray[np.float32]:
    """What phones send, rounded at every addition."""
    return np.random.default_rng(phone).standard_normal(LAYOUT.size).astype(np.float32)


async def trained(store: Store, replicas: int, deltas: Deltas) -> NDArray[np.float32]:
    """The master weights after some rounds whose phones spread over so many replicas."""
    town = Town(store=store)
    all_of_them = [town.another_coordinator(f"replica-{number}") for number in range(replicas)]
    for replica in all_of_them:
        await replica.start()
    town.coordinator = all_of_them[0]
    await town.found()
    await town.task(
        round=f"goal = {PHONES}\nover_selection = 0.0\nmax_rounds = {ROUNDS}",
        optimizer='name = "fedadam"',
        aggregation="max_norm_ratio = 0.0\nclip_norm_ratio = 0.0",
    )
    for sequence in range(ROUNDS):
        for replica in all_of_them:
            await replica.tick()
        claims = []
        for number in range(PHONES):
            town.coordinator = all_of_them[number % replicas]
            claims.append(await town.assigned(await town.enrol()))
        for number, one in enumerate(claims):
            # Examples as phones have them: the weights differ.
            message = report(deltas(sequence * PHONES + number), examples=1 + number % 5)
            try:
                await all_of_them[(number + 1) % replicas].report(one, message)
            except Refused:
                continue  # it waits for its batch
        for _ in range(2):
            for replica in all_of_them:
                await replica.tick()
    population = await store.populations.get(POPULATION)
    assert population is not None
    assert population.latest_version == ROUNDS
    partials = {record.round.sequence: record.round.counted for record in await store.rounds.of_task(TASK)}
    assert partials == {1: PHONES, 2: PHONES}
    weights = (await all_of_them[0]._trunk.checkpoint(POPULATION, ROUNDS)).weights
    for replica in all_of_them:
        await replica.stop()
    return weights


@pytest.fixture
async def alone() -> dict[Deltas, NDArray[np.float32]]:
    """What one process makes of the same phones."""
    return {deltas: await trained(MemoryStore(), 1, deltas) for deltas in (whole, arbitrary)}


@pytest.mark.parametrize("replicas", [2, 3])
async def test_more_replicas_make_the_same_version_bit_for_bit_where_sums_are_exact(
    new_store: Callable[[int], Store], alone: dict[Deltas, NDArray[np.float32]], replicas: int
) -> None:
    weights = await trained(new_store(replicas), replicas, whole)

    assert alone[whole].any()
    np.testing.assert_array_equal(weights, alone[whole])


@pytest.mark.parametrize("replicas", [2, 3])
async def test_more_replicas_make_the_same_version_to_a_millionth_whatever_phones_send(
    new_store: Callable[[int], Store], alone: dict[Deltas, NDArray[np.float32]], replicas: int
) -> None:
    weights = await trained(new_store(replicas), replicas, arbitrary)

    assert np.abs(alone[arbitrary]).max() > 1e-3
    np.testing.assert_allclose(weights, alone[arbitrary], rtol=0, atol=1e-6)

"""Which assignments of an asynchronous task are looked for: those of its last eight deadlines."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, take_slot
from tests.contract.test_store_contract import (
    ASYNC,
    NOW,
    POPULATION,
    ROUND,
    TASK,
    VERSION,
    assignment,
    device,
)

from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.storage.records import RoundRecord
from keyflock_server.storage.sql.store import SqlStore

BUFFER = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
LIFE = timedelta(seconds=ASYNC.round.deadline_s)


async def test_an_assignment_older_than_eight_deadlines_is_not_looked_for_any_more(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'expiry.sqlite3'}")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    await store.rounds.add(RoundRecord(round=BUFFER))
    await add_device(store, device("a"))
    await take_slot(store, assignment("a", "u-1"))

    too_late = await store.rounds.expire(BUFFER.id, NOW + 8 * LIFE)
    too_early = await store.rounds.expire(BUFFER.id, NOW + LIFE - timedelta(microseconds=1))
    in_time = await store.rounds.expire(BUFFER.id, NOW + 8 * LIFE - timedelta(microseconds=1))

    assert (too_late, too_early) == (None, None)
    assert in_time is not None
    assert in_time[1] == ("assignment-of-a",)
    await store.close()

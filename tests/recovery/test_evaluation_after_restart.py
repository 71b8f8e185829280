"""An evaluate round over dead processes and their files: it closes once, with each phone in it once."""

import contextlib
import itertools
from pathlib import Path

import pytest
from tests.unit.coordinator.evaluate_task import (
    assigned,
    open_evaluation,
    publish_version,
    scores,
    scores_report,
)
from tests.unit.coordinator.harness import CoordinatorHarness
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, crash_after

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.paired_sums import PairedSums
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.sql.store import SqlStore

PHONES = 8


def process(folder: Path, number: int) -> CoordinatorHarness:
    """One more process on the files of this folder."""
    url = f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"
    numbers = itertools.count(1_000_000 * number)
    return CoordinatorHarness(store=SqlStore(url), blobs=LocalBlobStore(folder / "blobs"), numbers=numbers)


async def send_all(harness: CoordinatorHarness, claims: list[AssignmentClaims]) -> None:
    """Let every phone send its report: each has a power of two of words, so that a sum names its phones."""
    for number, one in enumerate(claims):
        with contextlib.suppress(ApiError, ProcessKilled):
            message = scores_report(scores(words=2**number), of=one)
            await harness.coordinator.reports.report(one, message)
    with contextlib.suppress(ProcessKilled):
        await harness.coordinator.tick()


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5, 6])
async def test_an_evaluation_closes_exactly_once_whenever_its_process_dies(
    tmp_path: Path, writes: int
) -> None:
    dying = process(tmp_path, 0)
    await dying.coordinator.start()
    await dying.create_population()
    await publish_version(dying)
    await open_evaluation(dying, f"goal = {PHONES}\nover_selection = 0.0\nmax_rounds = 1")
    claims = await assigned(dying, PHONES)
    crash_after(dying, writes, after_write=True)
    await send_all(dying, claims)
    await dying.store.close()

    following = process(tmp_path, 1)
    following.now = dying.now
    await following.coordinator.start()
    for _ in range(2):
        await send_all(following, claims)

    (stored,) = await following.store.evaluations.list_by_task(TaskName("e"), 10)
    sums = PairedSums.from_json(stored.sums_json)
    closed = await following.coordinator.tasks.round(RoundId("e-1"))
    await following.coordinator.stop()
    assert (closed.phase, closed.counted, sums.users) == ("closed", PHONES, PHONES)
    assert closed.figures is not None
    assert closed.figures["words"] * PHONES == 2**PHONES - 1
    assert sums.metrics["recall_at_3"].candidate == 0.25 * PHONES

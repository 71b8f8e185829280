"""What runs in the background dies loudly, or is started again: each kind, by its nature."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator import NullObserver
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError
from keyflock_server.runtime.lifecycles import LifecycleGroup
from keyflock_server.storage.records import RoundRecord
from keyflock_server.suggestions.dynamic_batcher import DynamicBatcher
from keyflock_server.telemetry.logs import configure_logs

SERVER = Path(__file__).parents[2] / "server" / "keyflock_server"
#: Where tasks are started, and which test here or in test_server_life.py shows what becomes of them.
STARTED_IN = {
    "coordinator/flush_scheduler.py": "a flush: whoever asked for it, or the log, hears of its error",
    "coordinator/group_commit.py": "the transactions: each caller hears of its group's error",
    "coordinator/single_flight.py": "a delta: whoever waits hears of its error (test_shared_work.py)",
    "http/tls_acceptor.py": "a handshake: whoever connects is cut off when it fails (test_tls.py)",
    "http/request_handler.py": "a connection's timers (test_connections.py)",
    "storage/deletion_hold.py": "a backup's lease is renewed: the backup hears of errors",
    "storage/sql/portable_copy.py": "a copy in a thread: whoever copies waits for it",
    "telemetry/log_context.py": "what calls share: started for whoever asks, who hears of its error",
    "runtime/server.py": "the heartbeat takes the process with it; the coordinator's stop is bounded",
    "suggestions/dynamic_batcher.py": "the worker tells each caller, and is started again",
    "suggestions/profile_cache.py": "a load: whoever asked for it hears of its error",
    "suggestions/service.py": "following releases: the next pass logs its error, and starts it again",
}


@pytest.fixture
def log() -> io.StringIO:
    """Where this test's log goes."""
    stream = io.StringIO()
    configure_logs("json", "INFO", stream)
    return stream


class ScriptedLifecycle:
    """A lifecycle that records its calls, and fails if asked to."""

    def __init__(self, name: str, happened: list[str], *, fails: bool = False) -> None:
        self._name, self._happened, self._fails = name, happened, fails

    async def _do(self, what: str) -> None:
        self._happened.append(f"{self._name} {what}")
        if self._fails:
            raise RuntimeError(f"{self._name} cannot {what}")

    async def start(self) -> None:
        await self._do("start")

    async def tick(self) -> None:
        await self._do("tick")

    async def stop(self) -> None:
        await self._do("stop")


def test_every_task_that_the_server_starts_is_known_here() -> None:
    starts = ("asyncio.create_task(", "asyncio.ensure_future(", "TaskGroup(", "call_later(", "shared_task(")
    found = {
        path.relative_to(SERVER).as_posix()
        for path in SERVER.rglob("*.py")
        if any(word in path.read_text() for word in starts)
    }

    assert found == STARTED_IN.keys()


async def test_a_part_that_fails_takes_neither_the_rounds_nor_the_other_parts_with_it(
    log: io.StringIO,
) -> None:
    happened: list[str] = []
    bad, good = ScriptedLifecycle("suggestions", happened, fails=True), ScriptedLifecycle("heads", happened)
    parts = LifecycleGroup(ScriptedLifecycle("rounds", happened), [good, bad])

    await parts.tick()
    await parts.stop()

    assert happened == [
        *("rounds tick", "heads tick", "suggestions tick"),
        *("suggestions stop", "heads stop", "rounds stop"),
    ]
    told = [json.loads(line) for line in log.getvalue().splitlines() if "keyflock" in line]
    assert [(event["event"], event["error"]) for event in told] == [
        ("a pass failed; it is tried again", "RuntimeError"),
        ("a part did not stop well", "RuntimeError"),
    ]


async def test_a_worker_whose_work_goes_wrong_tells_each_caller_and_answers_the_next() -> None:
    def work(questions: Sequence[int]) -> list[int]:
        return list(questions[1:]) if 13 in questions else list(questions)

    def count(size: int) -> None:
        if size == 3:
            raise RuntimeError("the meter is broken")

    batching = DynamicBatcher(work, max_batch_size=4, max_waiting=100, on_batch=count)

    async with asyncio.timeout(120.0):
        too_few = await asyncio.gather(*(batching.submit(13) for _ in range(2)), return_exceptions=True)
        uncounted = await asyncio.gather(*(batching.submit(1) for _ in range(3)), return_exceptions=True)
        assert await batching.submit(7) == 7

    assert [type(one) for one in too_few] == [ValueError] * 2
    assert [type(one) for one in uncounted] == [RuntimeError] * 3
    await batching.close()


class RecordingObserver(NullObserver):
    """Records failures."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """Remembered."""
        self.failed.append(f"{task}: {error}")


@pytest.fixture
async def harness() -> AsyncIterator[CoordinatorHarness]:
    """A founded harness whose observer listens."""
    harness = CoordinatorHarness(observer=RecordingObserver())
    await harness.coordinator.start()
    await harness.create_population()
    yield harness
    await harness.coordinator.stop()


async def test_a_flush_that_fails_in_a_new_way_is_told_though_its_phone_has_hung_up(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    heard = harness.observer
    flusher, is_flushing, may_fail = harness.coordinator._flusher, asyncio.Event(), asyncio.Event()
    flush = flusher.flush_if_due

    async def go_wrong(*_: object) -> None:
        is_flushing.set()
        await may_fail.wait()
        raise RuntimeError("nobody has thought of this")

    for one in claims[:3]:
        with pytest.raises(ApiError, match="waits for others"):
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    flusher.flush_if_due = go_wrong  # type: ignore[assignment, method-assign]  # for the next flush
    last = asyncio.create_task(
        harness.coordinator.reports.report(claims[3], report(constant(1.0), of=claims[3]))
    )
    await is_flushing.wait()
    last.cancel()
    may_fail.set()
    await harness.coordinator._flushes.stop()
    flusher.flush_if_due = flush  # type: ignore[method-assign]  # and never again
    await harness.coordinator.tick()

    assert isinstance(heard, RecordingObserver)
    assert heard.failed == ["t: nobody has thought of this"]
    receipt = await harness.coordinator.reports.report(claims[3], report(constant(1.0), of=claims[3]))
    assert isinstance(receipt, Receipt)
    assert receipt.duplicate


async def test_a_pass_that_fails_over_one_task_drives_the_others(harness: CoordinatorHarness) -> None:
    for name in ("t", "u"):
        await harness.task(name, round="goal = 4\nover_selection = 0.0")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    for one in claims:
        with contextlib.suppress(ApiError):  # the first three of each four wait
            await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
    advance = harness.store.rounds.advance

    async def fail_for_t(*what: object) -> RoundRecord:
        if what[0] == "t-1":
            raise RuntimeError("a bug")
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    harness.store.rounds.advance = fail_for_t  # type: ignore[assignment, method-assign]  # one task only
    await harness.coordinator.tick()

    phases = [(await listed_rounds(harness.coordinator, TaskName(name)))[0].phase for name in ("t", "u")]
    assert phases == ["collecting", "closed"]

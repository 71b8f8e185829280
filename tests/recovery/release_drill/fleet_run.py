"""One release after another over HTTP: a good version, a worse one, a diverged one, and one that is forced.

1  version 1 is as good as 0: the gate passes it, it goes through the stages, and everybody serves it
2  version 2 is worse by the phones' own evaluation: the gate rolls it back, and no keyboard ever serves it
3  a third step diverges: its round is held, and there is no version
4  an admin promotes version 2 in spite of the gate; one call rolls it back, and all keyboards serve 1 again
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.one_hot_fleet import PROFILE, create_population, task_toml
from tests.recovery.release_drill.scoring_trainer import ScoringTrainer
from tests.recovery.release_drill.served_versions import ServedVersions
from tests.recovery.replicas import ReplicaSet

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.evaluating.evaluating_trainer import ALL_CAPABILITIES
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_server.audit.entry import EMPTY
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.releases import (
    PROMOTE_RELEASE,
    RELEASE,
    RELEASE_HISTORY,
    ROLL_BACK_RELEASE,
    SET_RELEASE_POLICY,
)
from keyflock_server.releases.stages import bucket_of
from keyflock_server.storage.audit_verification import verify_page
from keyflock_server.storage.interfaces.record_store import RecordStore

POPULATION: Final = PopulationName("en")
PHONES: Final = 48
#: Recall@3 of the versions by number: 2 is five points worse.
QUALITY: Final[Mapping[int, float]] = {0: 0.25, 1: 0.25, 2: 0.20}
_POLICY: Final = {"promotion": "gate", "stages": [10, 50, 100], "min_stage_s": 2.0, "min_users": 30}
_TRAINING: Final = """
minimum = 8
over_selection = 0.0
selection_s = 0.1
deadline_s = 60.0
max_rounds = 1
min_flush_clients = 1
unsafe_single_flush = true
"""
_EVALUATING: Final = f"""
[task]
name = "quality"
population = "{POPULATION}"
kind = "evaluate"
[round]
goal = 32
minimum = 32
over_selection = 0.0
selection_s = 0.1
deadline_s = 60.0
min_flush_clients = 1
unsafe_single_flush = true
[pacing]
min_s = 0.15
max_s = 0.4
[evaluating]
metrics = ["recall_at_3"]
"""
_PATIENCE: Final = RetryPolicy(first_pause_s=0.05, max_pause_s=2.0)
_POLL_S: Final = 0.05
_CHECK_S: Final = 1.0
_TIMEOUT_S: Final = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOutcome:
    """What one run has shown."""

    #: Number of keyboards that ever served a version which nobody had promoted or staged, or that diverged.
    diverged_served: int
    #: Whether the version that phones found worse was blocked before any keyboard served it.
    is_worse_blocked: bool
    #: From the call that rolled the forced version back until the last keyboard served the one before.
    rollback_s: float
    #: Whether no device left a stage, and those in a stage were the ones with its buckets.
    stages_only_widen: bool
    #: Whether the audit log's chain is whole, with an entry for each step.
    audit_verified: bool
    #: The actions of the release's history, oldest first.
    actions: tuple[str, ...]


async def run_fleet(servers: ReplicaSet, exchange: LoadBalancedExchange, store: RecordStore) -> FleetOutcome:
    """Run the drill against servers that run already.

    Args:
        servers: The servers; the operator's calls go to each in turn.
        exchange: Carries phones' calls.
        store: The servers' store; only read.
    """
    examples = {str(coordinate): 4 for coordinate in range(PHONES)}
    phones = make_fleet(
        examples,
        population=POPULATION,
        profile=PROFILE,
        seed=1,
        retry_policy=_PATIENCE,
        capabilities=ALL_CAPABILITIES,
        with_keyboards=True,
    )
    watched = ServedVersions(phones)
    fleet = RealTimeFleet(phones, exchange, ScoringTrainer(QUALITY), listener=watched.record, drain_s=10.0)
    turns = itertools.cycle(servers.replicas)
    operator = _Operator(lambda: next(turns).admin_url, servers.admin_token)
    async with operator_client(next(turns).admin_url, servers.admin_token) as admin:
        await create_population(admin, POPULATION)
    await operator.order(SET_RELEASE_POLICY, {"policy": _POLICY, "reason": "the drill"})
    await operator.create_task(_EVALUATING)
    await servers.wait_until_read()
    async with _running(fleet):
        await operator.create_task(task_toml("good", POPULATION, _TRAINING))
        stage = await _first_stage(operator, watched)
        await _until("every keyboard serves version 1", _all_serve(watched, 1))
        await operator.create_task(task_toml("worse", POPULATION, _TRAINING))
        await _until("the gate rolls back", lambda: operator.is_in("rolled_back"))
        is_worse_blocked = watched.ever <= {0, 1}
        checks = "[checks]\nmax_step_ratio = 0.5"
        wild = await operator.create_task(task_toml("wild", POPULATION, f"{_TRAINING}{checks}"))
        await _until("the round is held", lambda: operator.is_held(wild))
        await asyncio.sleep(_CHECK_S)  # long enough for each keyboard to check once more
        diverged = [phone for phone, versions in watched.by_phone.items() if not {*versions} <= {0, 1}]
        forced = {"version": 2, "is_forced": True, "reason": "a drill of the way back"}
        await operator.order(PROMOTE_RELEASE, forced)
        await _until("every keyboard serves version 2", _all_serve(watched, 2))
        began_s = time.monotonic()
        await operator.order(ROLL_BACK_RELEASE, {"reason": "it is worse"})
        await _until("every keyboard serves version 1 again", _all_serve(watched, 1))
        rollback_s = time.monotonic() - began_s
        await operator.cancel_task(wild)
    history = await operator.history()
    return FleetOutcome(
        diverged_served=len(diverged)
        + sum(not {*versions} <= {0, 1, 2} for versions in watched.by_phone.values()),
        is_worse_blocked=is_worse_blocked,
        rollback_s=rollback_s,
        stages_only_widen=stage and _went_forward(watched),
        audit_verified=await _is_audited(store, len(history)),
        actions=tuple(step["action"] for step in reversed(history)),
    )


class _Operator:
    """Makes an operator's calls, each to the port that ``admin_urls`` names then."""

    def __init__(self, admin_urls: Callable[[], str], token: str) -> None:
        self._admin_urls = admin_urls
        self._token = token

    async def order(self, call: AnyCall, order: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call(call, json.dumps(order).encode())

    async def create_task(self, toml: str) -> str:
        async with operator_client(self._admin_urls(), self._token) as admin:
            return (await admin.create_task(toml, reason="the drill")).name

    async def cancel_task(self, name: str) -> None:
        async with operator_client(self._admin_urls(), self._token) as admin:
            await admin.cancel_task(name, reason="the drill is over")

    async def release(self) -> dict[str, Any]:
        return await self._call(RELEASE)

    async def history(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self._call(RELEASE_HISTORY))["items"]
        return items

    async def is_in(self, phase: str) -> bool:
        return bool((await self.release())["phase"] == phase)

    async def is_held(self, task: str) -> bool:
        async with operator_client(self._admin_urls(), self._token) as admin:
            return (await admin.task(task)).held_round is not None

    async def _call(self, call: AnyCall, body: bytes | None = None) -> dict[str, Any]:
        async with operator_client(self._admin_urls(), self._token) as admin:
            answer: dict[str, Any] = json.loads(await admin.call(call, {"population": POPULATION}, body))
            return answer


async def _first_stage(operator: _Operator, watched: ServedVersions) -> bool:
    """Wait until the first stage is over; return whether no device but its own got the candidate in it."""
    seen: set[str] = set()

    async def is_over() -> bool:
        release = await operator.release()
        if release["percent"] == 10:
            seen.update(phone for phone, version in watched.now().items() if version == release["candidate"])
        return bool(release["percent"] == 50)

    await _until("the stage of 50 %", is_over)
    # What was seen at the end of the stage may have been served at the beginning of the next one.
    in_stage = {phone for phone, device in watched.devices.items() if bucket_of(POPULATION, device) < 5_000}
    return seen <= in_stage


def _all_serve(watched: ServedVersions, version: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return watched.all_serve(version)

    return is_so


def _went_forward(watched: ServedVersions) -> bool:
    """Return whether each keyboard went from 0 to 1, to the forced 2 and back to 1, and to and fro never."""
    return all(versions in ([0, 1, 2, 1], [1, 2, 1]) for versions in watched.by_phone.values())


async def _is_audited(store: RecordStore, steps: int) -> bool:
    head, entries = EMPTY, 0
    while True:
        page = await verify_page(store.audit, head, None, 100)
        if page.broken is not None:
            return False
        if page.is_last:
            break
        read = await store.audit.ascending(head.sequence, 100)
        entries += sum(entry.subject_kind == "release" for entry in read)
        head = page.head
    return entries >= steps - 1  # the first row belongs to the population's creation


async def _until(what: str, is_so: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while not await is_so():  # noqa: ASYNC110 - neither phones nor servers set an event
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


@asynccontextmanager
async def _running(fleet: RealTimeFleet) -> AsyncIterator[None]:
    running = asyncio.create_task(fleet.run())
    try:
        yield
    finally:
        fleet.stop()
        await running

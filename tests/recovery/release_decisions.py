"""An operator who stages, promotes and rolls back releases while servers are killed, and what must hold then.

The population's versions are promoted by this operator alone. A call whose answer was lost may have been
carried out: what is checked afterwards is the history that the servers keep, not what the operator remembers.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import aiohttp
import msgspec

from keyflock_server.audit.entry import EMPTY
from keyflock_server.coordinator.release_steps import state_of
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.storage.audit_verification import verify_page
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import ReleaseRecord

_POLL_S: Final = 0.2
_REASON: Final = "drawn by lot"
_POLICY: Final = {"policy": {"promotion": "manual"}, "reason": _REASON}
_ALL: Final = 1_000_000


@dataclass
class ReleasingOperator:
    """Take a step of one population's release now and then, drawn by lot.

    Args:
        population: The population.
        admin: Returns the address of an operators' port that answers now, and the token.
        seed: Determines the steps.
    """

    population: PopulationName
    admin: Callable[[], Awaitable[tuple[str, str]]]
    seed: int
    #: Number of steps that were answered, by what they do.
    taken: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"releases:{self.seed}")
        self._is_stopping = asyncio.Event()

    async def run(self) -> None:
        """Take steps until ``stop``."""
        while await self._call("PUT", "policy", _POLICY) != 200:  # noqa: ASYNC110 - a killed server sets no event
            await asyncio.sleep(_POLL_S)
        while not self._is_stopping.is_set():
            step = self._rng.choice(("start", "promote", "rollback"))
            order: dict[str, object] = {"reason": _REASON}
            if step == "start":
                order |= {"percent": self._rng.choice((10, 50))}
            elif step == "promote":
                order |= {"is_forced": True}
            self.taken[step] += await self._call("POST", step, order) == 200
            await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """Take no further step."""
        self._is_stopping.set()

    async def _call(self, method: str, step: str, order: Mapping[str, object]) -> int:
        url, token = await self.admin()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        address = f"{url}/admin/v1/populations/{self.population}/release/{step}"
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.request(method, address, data=msgspec.json.encode(order)) as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0


async def release_violations(
    store: RecordStore, served: Mapping[PopulationName, Iterable[ModelVersion]]
) -> list[str]:
    """Return what is wrong with release histories and the audit log, one line each.

    Args:
        store: The servers' store.
        served: All versions that keyboards have served, by population.
    """
    found = []
    for name in await store.releases.all_newest():
        history = (await store.releases.page(name, None, _ALL))[::-1]
        found += [f"{name}: {line}" for line in history_violations(history)]
        released = {version for row in history for version in state_of(row).served}
        wrongly = {*served.get(name, ())} - released
        found += [f"{name}: version {one} was served and never released" for one in wrongly]
    head = EMPTY
    while True:
        page = await verify_page(store.audit, head, None, 1_000)
        if page.broken is not None:
            return [*found, f"audit log: {page.broken}"]
        if page.is_last:
            return found
        head = page.head


def history_violations(history: list[ReleaseRecord]) -> list[str]:
    """Return what is wrong with a population's history, oldest row first."""
    found = []
    if [row.sequence for row in history] != list(range(len(history))):
        found.append("the history has gaps")
    for before, after in pairwise(history):
        is_same = before.candidate is not None and before.candidate == after.candidate
        if is_same and before.version == after.version and after.percent < before.percent:
            found.append(f"step {after.sequence} narrows the stage of version {after.candidate}")
    return found

"""An operator who decides about held rounds while servers are killed: half are accepted, half discarded.

A round that is held is read first: what it has summed is what its phones have receipts for, whatever becomes
of it. A discarded sum is in no model, so what was read here is what the rows are compared with.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import numpy as np
from tests.recovery.books import Aggregate
from tests.recovery.marks import LAYOUT

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.door import Blobs, StorageError, Store

_PAUSE_S: Final = 0.05
_REASON: Final = '{"reason": "drawn by lot"}'


@dataclass
class Decider:
    """Looks for held rounds, and decides.

    Args:
        store: Read beside the servers.
        blobs: Read beside them, too.
        admin: Gives the address of an operator's port that answers now, and the token.
        seed: Of the decisions.
    """

    store: Store
    blobs: Blobs
    admin: Callable[[], Awaitable[tuple[str, str]]]
    seed: int
    accepted: set[RoundId] = field(default_factory=set)
    #: Discarded rounds, and what they had summed.
    discarded: dict[RoundId, Aggregate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"decider:{self.seed}")
        self._is_enough = asyncio.Event()

    async def run(self) -> None:
        """Decide until told to finish."""
        while not self._is_enough.is_set():
            for record in await self.store.rounds.unfinished():
                if record.round.phase is Phase.HELD and record.aggregate_key is not None:
                    await self._decide(record.round.id, record.aggregate_key)
            await asyncio.sleep(_PAUSE_S)

    def finish(self) -> None:
        """Leave what is held from now on."""
        self._is_enough.set()

    async def _decide(self, round_id: RoundId, key: str) -> None:
        try:
            data = await self.blobs.get(key)
        except StorageError:  # decided already; its row was read a moment too early
            return
        marks = -PartialAggregate.from_bytes(data, LAYOUT.size).sum.astype(np.float64)
        decision = self._rng.choice(("accept", "discard"))
        # A server that was killed sets no event.
        while await self._post(round_id, decision) not in (200, 409):  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE_S)
        if decision == "accept":
            self.accepted.add(round_id)
        else:
            self.discarded[round_id] = Aggregate(marks, is_exact=True, is_published=False)

    async def _post(self, round_id: RoundId, decision: str) -> int:
        url, token = await self.admin()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{url}/admin/v1/rounds/{round_id}/{decision}", data=_REASON) as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

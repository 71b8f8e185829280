"""An operator who decides about held rounds while servers are killed: half are accepted, half discarded.

The sum of a held round is read before the decision. A discarded sum is in no model version, so the sum that
was read here is compared with the rows.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import numpy as np
from tests.recovery.one_hot_fleet import LAYOUT
from tests.recovery.recorded_state import RoundSum

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore

_POLL_S: Final = 0.05
_REASON: Final = '{"reason": "drawn by lot"}'


@dataclass
class SimulatedOperator:
    """Accept or discard each held round, drawn by lot.

    Args:
        store: The servers' store; only read.
        blobs: The servers' blobs; only read.
        admin: Returns the address of an operators' port that answers now, and the token.
        seed: Determines the decisions.
    """

    store: RecordStore
    blobs: BlobStore
    admin: Callable[[], Awaitable[tuple[str, str]]]
    seed: int
    accepted: set[RoundId] = field(default_factory=set)
    #: The sums of discarded rounds.
    discarded: dict[RoundId, RoundSum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"decider:{self.seed}")
        self._is_stopping = asyncio.Event()

    async def run(self) -> None:
        """Decide about held rounds until ``stop``."""
        while not self._is_stopping.is_set():
            for record in await self.store.rounds.unfinished():
                if record.round.phase is Phase.HELD and record.aggregate_key is not None:
                    await self._decide(record.round.id, record.aggregate_key)
            await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """Decide about no further round."""
        self._is_stopping.set()

    async def _decide(self, round_id: RoundId, key: str) -> None:
        try:
            data = await self.blobs.get(key)
        except StorageError:  # the round is decided already; its row was read a moment too early
            return
        weights = -PartialAggregate.from_bytes(data, LAYOUT.size).sum.astype(np.float64)
        decision = self._rng.choice(("accept", "discard"))
        # A server that was killed sets no event.
        while await self._post(round_id, decision) not in (200, 409):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        if decision == "accept":
            self.accepted.add(round_id)
        else:
            self.discarded[round_id] = RoundSum(weights, is_exact=True, is_published=False)

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

"""Serves ``POST /v1/suggestions`` from the user's profile and the population's trunk. Nothing is logged."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from keyflock_models.serving.suggesting import SuggestionQuery, SuggestionResult, suggest_batch
from keyflock_models.serving.trunk_predictions import BATCH_SIZES
from keyflock_models.text.tokenizer import folded
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import Blend, Suggestion, SuggestionRequest, Suggestions
from keyflock_server.storage.clock import Clock
from keyflock_server.suggestions.dynamic_batcher import DynamicBatcher
from keyflock_server.suggestions.profile_cache import ProfileCache
from keyflock_server.suggestions.released_trunks import ReleasedTrunk
from keyflock_server.telemetry.log_context import shared_task
from keyflock_server.telemetry.metrics import Metrics

#: How often the store is asked for new releases.
_REFRESH_INTERVAL: Final = timedelta(seconds=1)
#: Maximum number of passes that may wait before requests are refused.
_MAX_WAITING_PASSES: Final = 16


class TrunkSource(Protocol):
    """The trunks that suggestions are computed with."""

    def get(self, population: PopulationName) -> ReleasedTrunk:
        """Return the trunk of a population; raises ApiError ``not_ready``."""
        ...

    async def refresh(self) -> None:
        """Compile the trunks of new releases."""
        ...

    def close(self) -> None:
        """Stop compiling."""
        ...


class SuggestionService:
    """Suggests words to keyboards.

    Args:
        trunks: The trunks of the released versions.
        profiles: The users' profiles; None where no personal models are stored.
        clock: Returns the current time, aware UTC.
        metrics: Counts passes.
        waits_for_refresh: Whether a pass waits until a new release is compiled. A simulation must, because
            nothing happens between its passes. A server must not: compiling takes seconds, and rounds would
            wait.
    """

    def __init__(
        self,
        trunks: TrunkSource,
        profiles: ProfileCache | None,
        clock: Clock,
        metrics: Metrics,
        *,
        waits_for_refresh: bool = False,
    ) -> None:
        self._trunks = trunks
        self._profiles = profiles
        self._clock = clock
        self._waits_for_refresh = waits_for_refresh
        self._refreshed_at: datetime | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._batcher: DynamicBatcher[tuple[ReleasedTrunk, SuggestionQuery], SuggestionResult] = (
            DynamicBatcher(
                _suggest_per_trunk,
                max_batch_size=BATCH_SIZES[-1],
                max_waiting=_MAX_WAITING_PASSES * BATCH_SIZES[-1],
                on_batch=metrics.suggestion_batch.observe,
            )
        )

    async def start(self) -> None:
        """Compile the released versions before the server reports that it is ready."""
        await self._trunks.refresh()

    async def tick(self) -> None:
        """Start to compile new releases; raises the error of the last attempt."""
        if self._profiles is not None:
            self._profiles.drop_unused()
        now = self._clock()
        if self._refreshed_at is not None and timedelta(0) <= now - self._refreshed_at < _REFRESH_INTERVAL:
            return
        last = self._refreshing
        if last is not None:
            if not last.done():
                return
            self._refreshing = None
            last.result()
        self._refreshed_at = now
        self._refreshing = shared_task(self._trunks.refresh(), "follow releases")
        if self._waits_for_refresh:
            await self._refreshing

    async def stop(self) -> None:
        """Finish the current pass."""
        self._trunks.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        await self._batcher.close()

    def owner_changed(self, device: DeviceId) -> None:
        """Handle that the phone has enrolled anew, perhaps with another user, or was forgotten."""
        if self._profiles is not None:
            self._profiles.owner_changed(device)

    async def suggest(self, identity: DeviceIdentity, request: SuggestionRequest) -> Suggestions:
        """Return the next words.

        Raises:
            ApiError: ``not_ready`` while the population's model is being compiled; ``overloaded``;
                ``token_invalid`` when the phone was forgotten.
        """
        released = self._trunks.get(identity.population)
        profile = None
        if self._profiles is not None and request.blend is not Blend.GLOBAL:
            profile = await self._profiles.get(identity, released)
        question = SuggestionQuery(
            request.context,
            # The vocabulary is in lower case, and a sentence begins with a capital letter.
            prefix=folded(request.prefix),
            count=request.k,
            profile=profile,
            is_personal=request.blend is Blend.PERSONAL,
        )
        answer = await self._batcher.submit((released, question))
        return Suggestions(
            suggestions=tuple(Suggestion(word=word, probability=share) for word, share in answer.words),
            model_version=released.version,
            blend=request.blend if answer.is_personal else Blend.GLOBAL,
        )


def _suggest_per_trunk(batch: Sequence[tuple[ReleasedTrunk, SuggestionQuery]]) -> list[SuggestionResult]:
    """Answer a batch with one pass per trunk; nearly always there is only one."""
    found: dict[int, SuggestionResult] = {}
    for released in {id(one): one for one, _ in batch}.values():
        at = [place for place, (one, _) in enumerate(batch) if one is released]
        answered = suggest_batch([batch[place][1] for place in at], released.trunk, released.index)
        found.update(zip(at, answered, strict=True))
    return [found[place] for place in range(len(batch))]

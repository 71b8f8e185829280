"""``POST /v1/suggestions``: whose profile, which network, one pass, an answer. Nothing of it is logged."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from keyflock_models.serving.suggesting import Answer, Question, answers
from keyflock_models.serving.trunk_batch import BATCHES
from keyflock_models.tokenizer import folded
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import Blend, Suggestion, SuggestionRequest, Suggestions
from keyflock_server.storage.door import Clock
from keyflock_server.suggestions.batching import Batching
from keyflock_server.suggestions.profiles import Profiles
from keyflock_server.suggestions.released import ReleasedTrunk
from keyflock_server.telemetry.metrics import Metrics

#: How often a new release is looked for.
_FOLLOW_EVERY: Final = timedelta(seconds=1)
#: Passes that may be waiting before questions are refused.
_PASSES_WAITING: Final = 16


class Releases(Protocol):
    """The networks."""

    def of(self, population: PopulationName) -> ReleasedTrunk:
        """What answers for a population; raises Refused ``not_ready``."""
        ...

    async def follow(self) -> None:
        """Make ready what was released since."""
        ...

    def close(self) -> None:
        """Leave what is being compiled."""
        ...


class SuggestionDesk:
    """Answers keyboards.

    Args:
        released: The networks.
        profiles: The users' models; None where no heads are stored.
        clock: Gives now, aware UTC.
        metrics: Where passes are counted.
        waits: Whether a pass lasts until a new release is ready, as a simulation's must, in which nothing
            happens between passes. A server's must not: compiling takes seconds, and rounds would wait.
    """

    def __init__(
        self,
        released: Releases,
        profiles: Profiles | None,
        clock: Clock,
        metrics: Metrics,
        *,
        waits: bool = False,
    ) -> None:
        self._released = released
        self._profiles = profiles
        self._clock = clock
        self._waits = waits
        self._followed_at: datetime | None = None
        self._following: asyncio.Task[None] | None = None
        self._batching: Batching[tuple[ReleasedTrunk, Question], Answer] = Batching(
            _answered,
            largest=BATCHES[-1],
            waiting=_PASSES_WAITING * BATCHES[-1],
            on_batch=metrics.suggestion_batch.observe,
        )

    async def start(self) -> None:
        """Compile what is released, before the server says that it is ready."""
        await self._released.follow()

    async def tick(self) -> None:
        """Follow the releases; raises what the last attempt raised."""
        if self._profiles is not None:
            self._profiles.drop_unused()
        now = self._clock()
        if self._followed_at is not None and timedelta(0) <= now - self._followed_at < _FOLLOW_EVERY:
            return
        last = self._following
        if last is not None:
            if not last.done():
                return
            self._following = None
            last.result()
        self._followed_at = now
        self._following = asyncio.create_task(self._released.follow(), name="follow releases")
        if self._waits:
            await self._following

    async def stop(self) -> None:
        """Finish the pass at hand."""
        self._released.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._batching.close()

    def renamed(self, device: DeviceId) -> None:
        """The phone has enrolled anew, perhaps naming another user, or was forgotten."""
        if self._profiles is not None:
            self._profiles.renamed(device)

    async def suggest(self, identity: DeviceIdentity, request: SuggestionRequest) -> Suggestions:
        """The next words.

        Raises:
            Refused: ``not_ready`` while the population's model is compiled; ``overloaded``; ``token_invalid``
                when the phone was forgotten.
        """
        released = self._released.of(identity.population)
        profile = None
        if self._profiles is not None and request.blend is not Blend.GLOBAL:
            profile = await self._profiles.of(identity, released)
        question = Question(
            request.context,
            # Words are held in small letters, and a sentence begins with a capital one.
            prefix=folded(request.prefix),
            count=request.k,
            profile=profile,
            is_personal=request.blend is Blend.PERSONAL,
        )
        answer = await self._batching.ask((released, question))
        return Suggestions(
            suggestions=tuple(Suggestion(word=word, probability=share) for word, share in answer.words),
            model_version=released.version,
            blend=request.blend if answer.is_personal else Blend.GLOBAL,
        )


def _answered(batch: Sequence[tuple[ReleasedTrunk, Question]]) -> list[Answer]:
    """One pass a network; nearly always there is one."""
    found: dict[int, Answer] = {}
    for released in {id(one): one for one, _ in batch}.values():
        at = [place for place, (one, _) in enumerate(batch) if one is released]
        answered = answers([batch[place][1] for place in at], released.trunk, released.index)
        found.update(zip(at, answered, strict=True))
    return [found[place] for place in range(len(batch))]

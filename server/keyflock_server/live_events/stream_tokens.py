"""Streams of live events end when the token that opened them is void."""

from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.live_events.hub import EventHub


class StreamTokenWatch:
    """Asks at each pass about the tokens of the open streams; a ``Lifecycle`` of its own.

    A token is read from the store as seldom as for calls, so a pass without streams reads nothing.

    Args:
        hub: Has the streams.
        tokens: Knows which tokens are void.
    """

    def __init__(self, hub: EventHub, tokens: OperatorTokens) -> None:
        self._hub = hub
        self._tokens = tokens

    async def start(self) -> None:
        """Do nothing; no stream is open yet."""

    async def tick(self) -> None:
        """End the streams of tokens that were revoked or have expired."""
        for token_id in self._hub.token_ids:
            if not await self._tokens.is_valid(token_id):
                self._hub.end_streams_of(token_id)

    async def stop(self) -> None:
        """Do nothing; the event watch ends all streams."""

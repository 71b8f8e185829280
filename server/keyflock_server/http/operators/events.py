"""Answers the operators' call for live events."""

from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.live_events.hub import EventHub
from keyflock_server.protocol.calls import Response, StreamedResponse
from keyflock_server.protocol.operator.call import NoBody
from keyflock_server.protocol.operator.events import EVENT_STREAM, EVENTS, EventQuery

#: Proxies must hand on each event at once.
_HEADERS = {"content-type": EVENT_STREAM, "cache-control": "no-store", "x-accel-buffering": "no"}


class EventResource:
    """The handler of the call for live events.

    Args:
        hub: Has the events.
        models: Knows the populations by their names.
    """

    def __init__(self, hub: EventHub, models: ModelStore) -> None:
        self._hub = hub
        self._models = models

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(EVENTS, self._events)

    async def _events(self, request: OperatorRequest[EventQuery, NoBody]) -> Response:
        name = request.query.population
        population = await self._models.resolve(name) if name else None
        last_id = request.headers.get("last-event-id", "")
        reader = self._hub.reader(last_id, population, request.operator.token_id)
        return StreamedResponse(200, _HEADERS, b"", reader.blocks)

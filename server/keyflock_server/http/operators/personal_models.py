"""Answers operators' calls about stored personal models."""

from keyflock_server.coordinator.round_reading import RoundReading
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.operator.call import NoBody, Query
from keyflock_server.protocol.operator.personal_models import PERSONAL_MODELS, PersonalModelsView


class PersonalModelResource:
    """The handlers of the calls about personal models.

    Args:
        reading: Counts them, and reads what rounds measured.
    """

    def __init__(self, reading: RoundReading) -> None:
        self._reading = reading

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(PERSONAL_MODELS, self._get)

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> PersonalModelsView:
        return await self._reading.personal_models(request.population)

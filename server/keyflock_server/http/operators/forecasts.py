"""Answers the operators' call for a dry run of a task."""

from keyflock_server.coordinator.task_forecasts import TaskForecasts
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.http.operators.task_bodies import task_in
from keyflock_server.protocol.operator.call import Query
from keyflock_server.protocol.operator.forecasts import FORECAST_TASK, TaskForecast
from keyflock_server.protocol.problems import ApiError


class ForecastResource:
    """The handler of the call for a dry run.

    Args:
        forecasts: Says what a task would do.
    """

    def __init__(self, forecasts: TaskForecasts) -> None:
        self._forecasts = forecasts

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(FORECAST_TASK, self._forecast)

    async def _forecast(self, request: OperatorRequest[Query, bytes]) -> TaskForecast:
        try:
            spec = task_in(request.body, request.media_type)
        except ApiError as error:
            problems = list(error.problems) or [error.detail]
            return TaskForecast(is_accepted=False, problems=problems, conflicts=[])
        return await self._forecasts.forecast(spec)

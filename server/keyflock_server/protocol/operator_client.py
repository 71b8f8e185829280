"""The client of the operator API, over any ``Exchange``: the command line and the simulators use it."""

from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from keyflock_server.protocol.calls import Exchange, Request, Response
from keyflock_server.protocol.operator.call import AnyCall, ReasonOrder
from keyflock_server.protocol.operator.pages import MAX_LIMIT
from keyflock_server.protocol.operator.populations import (
    CREATE_POPULATION,
    POPULATIONS,
    PopulationList,
    PopulationView,
)
from keyflock_server.protocol.operator.rounds import ROUNDS, RoundList, RoundView
from keyflock_server.protocol.operator.tasks import CANCEL_TASK, CREATE_TASK, TASK, TASKS, TaskList, TaskView

V = TypeVar("V")

#: The code of an answer that is no problem document, for something else answers at that address.
NO_PROBLEM_DOCUMENT: Final = "no_problem_document"
_LONGEST_PAGE: Final = {"limit": str(MAX_LIMIT)}


class _ProblemDocument(msgspec.Struct):
    code: str
    title: str
    detail: str
    problems: tuple[str, ...] = ()


class OperatorError(Exception):
    """The server refused a call.

    Args:
        status: The HTTP status.
        code: The problem's code.
        title: One sentence: the kind of problem.
        detail: What was wrong, and what to do.
        problems: Each problem by itself, where there are several.
    """

    def __init__(
        self, status: int, code: str, title: str, detail: str, problems: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.problems = problems


def operator_request(
    token: str,
    call: AnyCall,
    path_params: Mapping[str, str] | None = None,
    body: bytes | None = None,
    query: Mapping[str, str] | None = None,
    media_type: str | None = None,
) -> Request:
    """Return the request of an operator's call.

    Args:
        token: The bearer token.
        call: The endpoint.
        path_params: The values of the parameters in the endpoint's path.
        body: The body.
        query: The query parameters.
        media_type: What the body is; None: the endpoint's first media type.
    """
    quoted = {name: quote(value, safe="") for name, value in (path_params or {}).items()}
    headers = {"authorization": f"Bearer {token}", "accept": call.answer_media_type}
    if body is not None:
        headers["content-type"] = media_type or call.media_type
    path = call.path.format_map(quoted)
    return Request(call.method, f"{path}?{urlencode(query)}" if query else path, headers, body or b"")


def read_answer(response: Response) -> bytes:
    """Return the JSON of the answer to an operator's call.

    Raises:
        OperatorError: the server refused the call, or it is no keyflock server.
    """
    if 200 <= response.status < 300:
        return response.body
    try:
        problem = msgspec.json.decode(response.body, type=_ProblemDocument)
    except msgspec.MsgspecError:
        detail = f"The answer has status {response.status} and is no problem document."
        raise OperatorError(response.status, NO_PROBLEM_DOCUMENT, "", detail) from None
    raise OperatorError(response.status, problem.code, problem.title, problem.detail, problem.problems)


class OperatorClient:
    """Makes an operator's calls.

    Args:
        exchange: Carries calls to the server's admin port.
        token: The bearer token.
    Raises:
        OperatorError: (every call) the server refused it.
        ConnectionError: (every call) the server could not be reached.
    """

    def __init__(self, exchange: Exchange, token: str) -> None:
        self._exchange = exchange
        self._token = token

    async def call(
        self,
        call: AnyCall,
        path_params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """Make one call and return the JSON of its answer; the arguments are ``operator_request``'s."""
        request = operator_request(self._token, call, path_params, body, query)
        return read_answer(await self._exchange.send(request))

    async def populations(self) -> list[PopulationView]:
        """Return the first thousand populations, ordered by id."""
        return (await self._view(PopulationList, POPULATIONS, query=_LONGEST_PAGE)).items

    async def create_population(self, name: str, checkpoint: bytes, *, reason: str) -> PopulationView:
        """Create a population whose version 0 is ``checkpoint`` (safetensors, vocabulary inside)."""
        query = {"reason": reason}
        return await self._view(PopulationView, CREATE_POPULATION, {"population": name}, checkpoint, query)

    async def tasks(self) -> list[TaskView]:
        """Return the first thousand tasks, oldest first."""
        return (await self._view(TaskList, TASKS, query=_LONGEST_PAGE)).items

    async def create_task(self, task_toml: str, *, reason: str) -> TaskView:
        """Create the task that ``task_toml`` describes; its first round opens soon."""
        return await self._view(TaskView, CREATE_TASK, body=task_toml.encode(), query={"reason": reason})

    async def task(self, name: str) -> TaskView:
        """Return one task."""
        return await self._view(TaskView, TASK, {"task": name})

    async def cancel_task(self, name: str, *, reason: str) -> TaskView:
        """End a task for good."""
        body = msgspec.json.encode(ReasonOrder(reason=reason))
        return await self._view(TaskView, CANCEL_TASK, {"task": name}, body)

    async def rounds(self, task: str) -> list[RoundView]:
        """Return a task's newest rounds, a thousand at most, oldest first."""
        return (await self._view(RoundList, ROUNDS, query=_LONGEST_PAGE | {"task": task})).items[::-1]

    async def _view(
        self,
        kind: type[V],
        call: AnyCall,
        path_params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> V:
        return msgspec.json.decode(await self.call(call, path_params, body, query), type=kind)

"""The operator's side of a server: populations, tasks and rounds over the admin API, as typed views."""

from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec

from keyflock_server.protocol.operator import (
    Populations,
    PopulationView,
    Rounds,
    RoundView,
    Tasks,
    TaskView,
)

CHECKPOINT_MEDIA_TYPE: Final = "application/octet-stream"
TASK_MEDIA_TYPE: Final = "application/toml"
_TIMEOUT_S: Final = 60.0

V = TypeVar("V")


class AdminError(RuntimeError):
    """The server refused, or could not be reached; the message is one sentence for the operator.

    Args:
        code: The problem's code, or ``unreachable``.
        detail: What was wrong.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class AdminClient:
    """Calls of one operator.

    Args:
        url: The server's admin address.
        token: The operator's bearer token.
    Raises:
        AdminError: (every call) the server refused or could not be reached.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
        )

    async def __aenter__(self) -> Self:
        """The client, ready to call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes its connections."""
        await self._session.close()

    async def populations(self) -> list[PopulationView]:
        """All populations."""
        return (await self._call("GET", "populations", Populations)).populations

    async def create_population(self, name: str, checkpoint: bytes) -> PopulationView:
        """Makes a population whose version 0 is ``checkpoint`` (safetensors, vocabulary inside)."""
        return await self._call(
            "PUT", f"populations/{name}", PopulationView, checkpoint, CHECKPOINT_MEDIA_TYPE
        )

    async def tasks(self) -> list[TaskView]:
        """All tasks, oldest first."""
        return (await self._call("GET", "tasks", Tasks)).tasks

    async def create_task(self, task_toml: str) -> TaskView:
        """Makes the task that ``task_toml`` describes, and starts it."""
        return await self._call("POST", "tasks", TaskView, task_toml.encode(), TASK_MEDIA_TYPE)

    async def task(self, name: str) -> TaskView:
        """One task."""
        return await self._call("GET", f"tasks/{name}", TaskView)

    async def cancel_task(self, name: str) -> TaskView:
        """Ends a task for good."""
        return await self._call("POST", f"tasks/{name}/cancel", TaskView)

    async def rounds(self, task: str) -> list[RoundView]:
        """All rounds of a task, oldest first."""
        return (await self._call("GET", f"tasks/{task}/rounds", Rounds)).rounds

    async def _call(
        self, method: str, path: str, kind: type[V], body: bytes = b"", media_type: str = ""
    ) -> V:
        headers = {"Content-Type": media_type} if media_type else {}
        url = f"{self._url}/admin/v1/{path}"
        try:
            async with self._session.request(method, url, data=body or None, headers=headers) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise AdminError("unreachable", f"{method} {url}: {reason}.") from None
        if answer.status >= 400:
            raise _refusal(answer.status, said)
        return msgspec.json.decode(said, type=kind)


def _refusal(status: int, said: bytes) -> AdminError:
    try:
        problem = msgspec.json.decode(said, type=_SaidProblem)
    except msgspec.MsgspecError:
        return AdminError(f"http_{status}", "The answer is no problem document.")
    return AdminError(problem.code, problem.detail)


class _SaidProblem(msgspec.Struct):
    code: str
    detail: str

"""Calls that have nothing to do with rounds: keyboards that ask for suggestions and releases, and operators.

Each kind is a Poisson process of its own, drawn before the run, and latency counts from its instants.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_load_tests.measured_calls import CallFailure, MeasuredCalls, request_of
from keyflock_load_tests.scenario import CallsBeside
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Call, Request
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.devices import DEVICES
from keyflock_server.protocol.operator.populations import POPULATIONS
from keyflock_server.protocol.operator.rounds import ROUNDS
from keyflock_server.protocol.operator.tasks import TASK, TASKS
from keyflock_server.protocol.operator_client import operator_request

#: What people type before they look at the strip.
_CONTEXTS: Final = ("the", "i am on my", "see you", "what do you", "thank you for", "we will be there at")
_OPERATOR_READS: Final = (
    TASKS,
    TASK,
    ROUNDS,
    POPULATIONS,
    DEVICES,
)


class KeptConnections:
    """Kept-alive connections as a ``Connection``; nobody hangs up on them."""

    def __init__(self, exchange: HttpExchange) -> None:
        self.send = exchange.send

    async def send_and_hang_up(self, request: Request) -> None:
        """Send, and wait for the answer all the same."""
        await self.send(request)


@dataclass(frozen=True, slots=True)
class SideCalls:
    """The calls beside a run.

    Args:
        plan: How often they come.
        population: Whose release is asked for.
        task: Whose rounds operators look at.
        token: The token of a phone, which all keyboards share.
        head: The personal model that keyboards store.
        admin_token: The operators' token.
        measured: Sends and measures the calls.
    """

    plan: CallsBeside
    population: str
    task: str
    token: str
    head: bytes
    admin_token: str
    measured: MeasuredCalls

    async def run(self, sdk_url: str, admin_url: str, duration_s: float, rng: np.random.Generator) -> None:
        """Make all calls that are due within ``duration_s``; return when the last is answered."""
        async with HttpExchange(sdk_url) as phones, HttpExchange(admin_url) as operators:
            keyboards, dashboard = KeptConnections(phones), KeptConnections(operators)

            async def suggest(index: int, due_at_s: float) -> None:
                message = messages.SuggestionRequest(context=_CONTEXTS[index % len(_CONTEXTS)])
                request = request_of(calls.SUGGEST, self.token, message=message)
                await self.measured.send(keyboards, calls.SUGGEST, request, due_at_s=due_at_s)

            async def update(_index: int, due_at_s: float) -> None:
                request = request_of(calls.RELEASE, self.token, population=self.population)
                answer = await self.measured.send(keyboards, calls.RELEASE, request, due_at_s=due_at_s)
                version = wire.decode(answer.body, messages.Release).model_version
                await self._get(keyboards, calls.VOCABULARY, population=self.population)
                await self._get(keyboards, calls.RELEASED_MODEL, version=version)

            async def store_head(_index: int, due_at_s: float) -> None:
                request = request_of(calls.PUT_HEAD, self.token, population=self.population)
                headers = {**request.headers, "Content-Type": calls.HEAD_MEDIA_TYPE}
                request = Request(request.method, request.path, headers, self.head)
                await self.measured.send(keyboards, calls.PUT_HEAD, request, due_at_s=due_at_s)
                await self._get(keyboards, calls.GET_HEAD, population=self.population)

            async def operate(index: int, due_at_s: float) -> None:
                call = _OPERATOR_READS[index % len(_OPERATOR_READS)]
                await self._read(dashboard, call, due_at_s)

            plan = self.plan
            streams: Sequence[tuple[float, Callable[[int, float], Awaitable[None]]]] = (
                (plan.suggestions_per_s, suggest),
                (plan.releases_per_s, update),
                (plan.heads_per_s, store_head),
                (plan.operator_reads_per_s, operate),
            )
            await asyncio.gather(
                *(self._stream(per_s, duration_s, rng, make) for per_s, make in streams if per_s)
            )

    async def _stream(
        self,
        per_s: float,
        duration_s: float,
        rng: np.random.Generator,
        make: Callable[[int, float], Awaitable[None]],
    ) -> None:
        due_s = np.sort(rng.uniform(0.0, duration_s, rng.poisson(per_s * duration_s))).tolist()

        async def call(index: int, due_at_s: float) -> None:
            await asyncio.sleep(max(0.0, due_at_s - self.measured.clock()))
            try:
                await make(index, due_at_s)
            except CallFailure:
                return  # it is in the measurements

        await asyncio.gather(*(call(index, due_at_s) for index, due_at_s in enumerate(due_s)))

    async def _get(
        self, keyboards: KeptConnections, call: Call, *, population: str = "", version: int = 0
    ) -> None:
        request = request_of(call, self.token, population=population, version=version)
        await self.measured.send(keyboards, call, request, due_at_s=self.measured.clock())

    async def _read(self, dashboard: KeptConnections, call: AnyCall, due_at_s: float) -> None:
        parts = {"task": self.task, "population": self.population}
        request = operator_request(self.admin_token, call, parts)
        await self.measured.send(dashboard, call, request, due_at_s=due_at_s)

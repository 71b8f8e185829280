"""The operators' calls over a real coordinator, without a socket."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from tests.http.operators.conftest import GatedSleep, ScriptedAuthenticator
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.coordinator.erasure import ErasureTargets
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.operators.endpoints import OperatorEndpoints
from keyflock_server.http.operators.repeated_creations import RepeatedCreations
from keyflock_server.http.operators.resources import resources_of
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.live_events.hub import EventHub
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.messages import Forgotten
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.telemetry.metrics import Metrics


@dataclass(frozen=True)
class DecodedAnswer:
    """A response, its JSON decoded."""

    status: int
    body: Any
    etag: str | None

    @property
    def code(self) -> str:
        """The problem's code; empty for an answer that is none."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class RealOperators:
    """Makes operators' calls to a coordinator.

    Args:
        harness: The coordinator, over any store.
    """

    def __init__(self, harness: CoordinatorHarness) -> None:
        self._harness = harness
        readiness, metrics = Readiness(), Metrics()
        readiness.state = ServerState.READY

        def clock() -> Any:  # noqa: ANN401 - an instant
            return harness.now

        tokens = OperatorTokens(harness.store.api_tokens, ApiTokens(b"k" * 32), clock)
        personal: Any = SimpleNamespace(forget=_forget_device_alone)
        self.endpoints = OperatorEndpoints(
            resources_of(harness.coordinator, EventHub("process", clock), tokens, personal),
            authenticator=ScriptedAuthenticator(tokens),
            creations=RepeatedCreations(harness.store.idempotency, clock),
            clock=clock,
            readiness=readiness,
            metrics=metrics,
            failed_attempts=FailedAttempts(metrics, GatedSleep()),
        )

    async def call(
        self,
        call: AnyCall,
        order: Mapping[str, Any] | None = None,
        *,
        role: str = "admin",
        if_match: str | None = None,
        query: Mapping[str, Any] | None = None,
        **path_params: object,
    ) -> DecodedAnswer:
        """Make a call; the population is the harness's unless it is named."""
        headers = {"authorization": f"Bearer the-{role}-token"}
        body = b"" if order is None else json.dumps({"reason": "a test", **order}).encode()
        if body:
            headers["content-type"] = "application/json"
        if if_match is not None:
            headers["if-match"] = if_match
        path = call.path.format_map({"population": POPULATION, **path_params})
        asked = f"?{urlencode(query)}" if query else ""
        response = await self.endpoints.send(Request(call.method, path + asked, headers, body))
        return DecodedAnswer(response.status, json.loads(response.body), response.headers.get("etag"))

    def let_two_read_their_revisions_before_either_goes_on(self) -> None:
        """Make the next two calls with ``If-Match`` pass their first check both, before either changes."""
        handlers, barrier, left = self.endpoints._handlers, asyncio.Barrier(2), [1, 1]
        revision_of = handlers.revision_of

        def after_both(call: AnyCall) -> Any:  # noqa: ANN401 - a function of ours in a function's place
            async def read(request: Any) -> object:  # noqa: ANN401 - any call's
                revision = await revision_of(call)(request)
                if left:
                    left.pop()
                    await barrier.wait()
                return revision

            return read

        handlers.revision_of = after_both  # type: ignore[method-assign]  # only the order of calls is scripted


async def _forget_device_alone(targets: ErasureTargets, forget: Any) -> Forgotten:  # noqa: ANN401 - a handler's
    forgotten: Forgotten = await forget(targets.devices)
    return forgotten

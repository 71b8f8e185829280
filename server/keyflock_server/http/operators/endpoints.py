"""The group of operators' calls: route, readiness, token, role, query, content headers, body, handler."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from keyflock_server.http.endpoint_group import (
    Clock,
    EndpointGroup,
    ReadBody,
    bearer,
    media_type_of,
    with_header,
)
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.operators.authentication import Authenticator
from keyflock_server.http.operators.decoding import decode_body, decode_query
from keyflock_server.http.operators.handlers import Handlers, Resource
from keyflock_server.http.operators.preconditions import (
    changed_meanwhile,
    named_revision,
    revision_etag,
    unexpected_condition,
)
from keyflock_server.http.operators.repeated_creations import HEADER, RepeatedCreations, request_digest
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.responses import JSON
from keyflock_server.http.routes import Routes, query_string
from keyflock_server.identity.operators import Operator
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.operator.call import AnyCall, NoBody
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.protocol.roles import Role
from keyflock_server.storage.errors import Superseded
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

_log: Final = logger("keyflock.operator")
#: Fields of the log by the path parameters that they show; a device's id is in the audit log alone.
_LOGGED: Final = {"population": "population", "task": "task", "round": "round_id"}
#: Whoever makes a call that needs no token.
_ANYBODY: Final = Operator("anybody", Role.VIEWER)


class OperatorEndpoints(EndpointGroup[AnyCall]):
    """Serves every call of ``OPERATOR_CALLS``.

    Args:
        resources: The handlers of the calls.
        authenticator: Knows the operators by their tokens.
        readiness: Says whether the server takes work now.
        metrics: Counts requests.
        creations: Answers repeated creations.
        clock: Returns the current time, aware UTC.
        failed_attempts: Slows down callers that guess tokens; None: one with the system's clock is made.
    """

    def __init__(
        self,
        resources: Iterable[Resource],
        *,
        authenticator: Authenticator,
        readiness: Readiness,
        metrics: Metrics,
        creations: RepeatedCreations,
        clock: Clock,
        failed_attempts: FailedAttempts | None = None,
    ) -> None:
        super().__init__(
            Routes(OPERATOR_CALLS),
            JSON,
            media_types={call.name: call.media_types for call in OPERATOR_CALLS},
            readiness=readiness,
            metrics=metrics,
            shows_request_id=True,
        )
        self._authenticator = authenticator
        self._creations = creations
        self._clock = clock
        self._failed_attempts = failed_attempts or FailedAttempts(metrics)
        self._handlers = Handlers(OPERATOR_CALLS)
        for resource in resources:
            resource.register(self._handlers)
        self._handlers.require_all()

    async def _answer(
        self,
        call: AnyCall,
        path_params: Mapping[str, str],
        head: Request,
        read_body: ReadBody,
    ) -> Response:
        self._readiness.require()
        operator = _ANYBODY if call.role is None else await self._authorised(call, call.role, head.headers)
        if not all(text.isprintable() for text in path_params.values()):
            # PostgreSQL fails where it is asked for such a text.
            raise ApiError(ProblemCode.NOT_FOUND, "An address has no control characters.")
        query = decode_query(query_string(head.path), call.query)
        body = await self._body(call, head, read_body)
        media_type = media_type_of(head.headers) if body else ""
        request = OperatorRequest(
            operator=operator,
            at=self._clock(),
            path_params=path_params,
            query=query,
            body=_decoded(call, body),
            media_type=media_type,
            headers=head.headers,
        )
        key = head.headers.get(HEADER)
        if key is None or not call.is_creation:
            return await self._run(call, request)
        digest = await asyncio.to_thread(request_digest, head.path, media_type, body)
        return await self._creations.answer(
            operator.name, key, call.name, digest, lambda: self._run(call, request)
        )

    async def _run(self, call: AnyCall, request: OperatorRequest[Any, Any]) -> Response:
        if "if-match" in request.headers:
            if not call.takes_if_match:
                raise unexpected_condition()
            request = replace(request, revision=await self._named_revision(call, request))
        try:
            answer = await self._handlers.of(call)(request)
        except Superseded:
            raise changed_meanwhile() from None
        except ApiError as error:
            if error.code is ProblemCode.CONFLICT and request.revision is not None:
                # Where it conflicts with a change that the operator has not seen, that is the reason to tell.
                await self._named_revision(call, request)
            raise
        if call.is_mutation:
            # The call succeeded, so each path parameter names something that exists, or a checked new name.
            found = {_LOGGED[name]: text for name, text in request.path_params.items() if name in _LOGGED}
            _log.info("operator call", call=call.name, **found)
        if isinstance(answer, Response):
            return answer
        response = JSON.response(answer, status=call.status)
        etag = revision_etag(answer)
        return response if etag is None else with_header(response, "etag", etag)

    async def _named_revision(self, call: AnyCall, request: OperatorRequest[Any, Any]) -> str | None:
        """Return the revision that ``If-Match`` names, if it is the present one; else raise ApiError."""
        return named_revision(request.headers, await self._handlers.revision_of(call)(request))

    async def _authorised(self, call: AnyCall, needed: Role, headers: Mapping[str, str]) -> Operator:
        """Return the operator whose token the call carries; a wrong token is answered after a delay."""
        try:
            operator = await self._authenticated(call, headers)
        except ApiError:
            await self._failed_attempts.delay_failure()
            raise
        if not operator.role.includes(needed):
            detail = f"The call {call.name} needs the role {needed}; the token's is {operator.role}."
            raise ApiError(ProblemCode.ROLE_TOO_WEAK, detail)
        return operator

    async def _authenticated(self, call: AnyCall, headers: Mapping[str, str]) -> Operator:
        token = bearer(headers)
        if token is None:
            raise ApiError(
                ProblemCode.TOKEN_MISSING,
                f"The call {call.name} needs the header Authorization: Bearer <token>.",
            )
        operator = await self._authenticator.operator(token)
        if operator is None:
            raise ApiError(ProblemCode.TOKEN_INVALID, "The token is none of this server's operators'.")
        return operator


def _decoded(call: AnyCall, body: bytes) -> object:
    if call.body is NoBody:
        return NoBody()
    return body if call.body is bytes else decode_body(body, call.body)

"""The endpoints that operators call: one bearer token, JSON answers, TOML tasks, safetensors checkpoints."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

from keyflock_server.http import operator_calls
from keyflock_server.http.documents import JSON
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.operator_calls import OPERATOR_CALLS, OperatorCall
from keyflock_server.http.plane import Plane, ReadBody, bearer, with_header
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.routes import Routes
from keyflock_server.http.services import OperatorService
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import Name
from keyflock_server.protocol.operator import (
    CohortQuestion,
    DecisionOrder,
    Populations,
    QuarantineOrder,
    RollbackOrder,
    Rounds,
    Tasks,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.task import TaskError, parse_task
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

Order = TypeVar("Order", DecisionOrder, QuarantineOrder, RollbackOrder)

_log: Final = logger("keyflock.operator")


@dataclass(frozen=True, slots=True)
class OperatorAdmission:
    """One call that the admin token has opened."""

    parts: Mapping[str, str]


class AdminEndpoints(Plane[OperatorCall, OperatorAdmission]):
    """Everything in ``operator_calls.OPERATOR_CALLS``.

    Args:
        service: The coordinator.
        admin_token: What every call must show.
        readiness: Whether to take work now.
        metrics: Where requests are counted.
        failed_attempts: Slows down who guesses the token; None: with the system's clock.
    """

    def __init__(
        self,
        service: OperatorService,
        *,
        admin_token: str,
        readiness: Readiness,
        metrics: Metrics,
        failed_attempts: FailedAttempts | None = None,
    ) -> None:
        super().__init__(
            Routes(OPERATOR_CALLS),
            JSON,
            media_types={call.name: call.media_type for call in OPERATOR_CALLS},
            readiness=readiness,
            metrics=metrics,
        )
        self._service = service
        self._admin_token = admin_token.encode()
        self._failed_attempts = failed_attempts or FailedAttempts(metrics)
        self._handlers: dict[str, Callable[[Mapping[str, str], bytes], Awaitable[Response]]] = {
            operator_calls.POPULATIONS.name: self._populations,
            operator_calls.CREATE_POPULATION.name: self._create_population,
            operator_calls.PREVIEW_COHORT.name: self._preview_cohort,
            operator_calls.ROLL_BACK.name: self._roll_back,
            operator_calls.TASKS.name: self._tasks,
            operator_calls.CREATE_TASK.name: self._create_task,
            operator_calls.TASK.name: self._task,
            operator_calls.PAUSE_TASK.name: self._pause_task,
            operator_calls.RESUME_TASK.name: self._resume_task,
            operator_calls.CANCEL_TASK.name: self._cancel_task,
            operator_calls.ROUNDS.name: self._rounds,
            operator_calls.ROUND.name: self._round,
            operator_calls.ACCEPT_ROUND.name: self._accept_round,
            operator_calls.DISCARD_ROUND.name: self._discard_round,
            operator_calls.DEVICES.name: self._devices,
            operator_calls.DEVICE.name: self._device,
            operator_calls.QUARANTINE_DEVICE.name: self._quarantine_device,
            operator_calls.RELEASE_DEVICE.name: self._release_device,
            operator_calls.REVOKE_DEVICE.name: self._revoke_device,
        }

    async def _answer(
        self, call: OperatorCall, parts: Mapping[str, str], head: Request, read_body: ReadBody
    ) -> Response:
        try:
            return await super()._answer(call, parts, head, read_body)
        except Refused as refused:
            if refused.status == HTTPStatus.UNAUTHORIZED:
                await self._failed_attempts.failed()
            raise

    def _admit(
        self, call: OperatorCall, parts: Mapping[str, str], headers: Mapping[str, str], _head: Request
    ) -> OperatorAdmission:
        token = bearer(headers)
        if token is None:
            raise Refused(
                ProblemCode.TOKEN_MISSING,
                f"The call {call.name} needs the header Authorization: Bearer <token>.",
            )
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._admin_token):
            raise Refused(ProblemCode.TOKEN_INVALID, "The token is not this server's admin token.")
        return OperatorAdmission(parts)

    async def _act(self, call: OperatorCall, admission: OperatorAdmission, body: bytes) -> Response:
        response = await self._handlers[call.name](admission.parts, body)
        if call.method != "GET":
            # It succeeded: what the address names was looked up and found, or made under a checked name.
            _log.info("operator call", call=call.name, **admission.parts)
        return response

    async def _populations(self, _parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(Populations(populations=await self._service.populations()))

    async def _create_population(self, parts: Mapping[str, str], body: bytes) -> Response:
        name = PopulationName(_name(parts["population"], "population"))
        return JSON.answer(await self._service.create_population(name, body), status=201)

    async def _preview_cohort(self, parts: Mapping[str, str], body: bytes) -> Response:
        name = PopulationName(_name(parts["population"], "population"))
        try:
            question = msgspec.json.decode(body, type=CohortQuestion)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(
                ProblemCode.MALFORMED_BODY, f"{wire.without_values(str(error)).rstrip('.')}."
            ) from None
        return JSON.answer(await self._service.preview_cohort(name, question.cohort))

    async def _roll_back(self, parts: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, RollbackOrder)
        return JSON.answer(await self._service.roll_back(PopulationName(parts["population"]), order))

    async def _tasks(self, _parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(Tasks(tasks=await self._service.tasks()))

    async def _create_task(self, _parts: Mapping[str, str], body: bytes) -> Response:
        try:
            spec = parse_task(body.decode())
        except UnicodeDecodeError:
            raise Refused(ProblemCode.INVALID_TASK, "The task is not UTF-8 text.") from None
        except RecursionError:
            raise Refused(ProblemCode.INVALID_TASK, "The task is nested too deeply.") from None
        except TaskError as error:
            raise Refused(ProblemCode.INVALID_TASK, str(error)) from None
        created = await self._service.create_task(spec)
        return with_header(JSON.answer(created, status=201), "location", f"/admin/v1/tasks/{created.name}")

    async def _task(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.task(TaskName(parts["task"])))

    async def _pause_task(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.pause_task(TaskName(parts["task"])))

    async def _resume_task(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.resume_task(TaskName(parts["task"])))

    async def _cancel_task(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.cancel_task(TaskName(parts["task"])))

    async def _rounds(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(Rounds(rounds=await self._service.rounds(TaskName(parts["task"]))))

    async def _round(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.round(RoundId(parts["round"])))

    async def _accept_round(self, parts: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, DecisionOrder)
        return JSON.answer(await self._service.accept_round(RoundId(parts["round"]), order))

    async def _discard_round(self, parts: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, DecisionOrder)
        return JSON.answer(await self._service.discard_round(RoundId(parts["round"]), order))

    async def _devices(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.devices(PopulationName(parts["population"])))

    async def _device(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.device(DeviceId(parts["device"])))

    async def _quarantine_device(self, parts: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, QuarantineOrder)
        return JSON.answer(await self._service.quarantine_device(DeviceId(parts["device"]), order))

    async def _release_device(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.release_device(DeviceId(parts["device"])))

    async def _revoke_device(self, parts: Mapping[str, str], _body: bytes) -> Response:
        return JSON.answer(await self._service.revoke_device(DeviceId(parts["device"])))


def _order(body: bytes, kind: type[Order]) -> Order:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"The order cannot be read: {wire.without_values(str(error))}."
        raise Refused(ProblemCode.MALFORMED_BODY, detail) from None


def _name(text: str, noun: str) -> str:
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError as error:
        raise Refused(ProblemCode.MALFORMED_BODY, f"The {noun}'s name in the address: {error}.") from None

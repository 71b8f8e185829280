"""The endpoints that operators call: one bearer token, JSON answers, TOML tasks, safetensors checkpoints."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

from keyflock_server.coordinator.population_service import PopulationService
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.http.endpoint_group import EndpointGroup, ReadBody, bearer, with_header
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.responses import JSON
from keyflock_server.http.routes import Routes
from keyflock_server.protocol import operator_calls, wire
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.fields import Name
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.protocol.operator import (
    CohortQuestion,
    DecisionOrder,
    DeletionOrder,
    PopulationList,
    QuarantineOrder,
    RenameOrder,
    RollbackOrder,
    RoundList,
    TaskList,
)
from keyflock_server.protocol.operator_calls import OPERATOR_CALLS, OperatorCall
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task_validation import TaskError, parse_task
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

Order = TypeVar("Order", DecisionOrder, DeletionOrder, QuarantineOrder, RenameOrder, RollbackOrder)

_log: Final = logger("keyflock.operator")


@dataclass(frozen=True, slots=True)
class AuthenticatedOperatorCall:
    """An operator's call whose admin token was checked."""

    path_params: Mapping[str, str]


class AdminEndpoints(EndpointGroup[OperatorCall, AuthenticatedOperatorCall]):
    """Serves every call of ``operator_calls.OPERATOR_CALLS``.

    Args:
        tasks: Creates, changes and shows tasks and their rounds.
        populations: Creates, renames, rolls back, deletes and shows populations.
        quarantines: Shows devices and quarantines them.
        revocations: Makes devices' tokens void.
        admin_token: The bearer token that every call must carry.
        readiness: Says whether the server takes work now.
        metrics: Counts requests.
        failed_attempts: Slows down callers that guess the token; None: one with the system's clock is made.
    """

    def __init__(
        self,
        *,
        tasks: TaskService,
        populations: PopulationService,
        quarantines: QuarantineService,
        revocations: TokenRevocations,
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
        self._task_service = tasks
        self._population_service = populations
        self._quarantine_service = quarantines
        self._revocations = revocations
        self._admin_token = admin_token.encode()
        self._failed_attempts = failed_attempts or FailedAttempts(metrics)
        self._handlers: dict[str, Callable[[Mapping[str, str], bytes], Awaitable[Response]]] = {
            operator_calls.POPULATIONS.name: self._populations,
            operator_calls.CREATE_POPULATION.name: self._create_population,
            operator_calls.PREVIEW_COHORT.name: self._preview_cohort,
            operator_calls.ROLL_BACK.name: self._roll_back,
            operator_calls.RENAME_POPULATION.name: self._rename_population,
            operator_calls.DELETE_POPULATION.name: self._delete_population,
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
        self, call: OperatorCall, path_params: Mapping[str, str], head: Request, read_body: ReadBody
    ) -> Response:
        try:
            return await super()._answer(call, path_params, head, read_body)
        except ApiError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                await self._failed_attempts.delay_failure()
            raise

    def _authenticate(
        self, call: OperatorCall, path_params: Mapping[str, str], headers: Mapping[str, str], _head: Request
    ) -> AuthenticatedOperatorCall:
        token = bearer(headers)
        if token is None:
            raise ApiError(
                ProblemCode.TOKEN_MISSING,
                f"The call {call.name} needs the header Authorization: Bearer <token>.",
            )
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._admin_token):
            raise ApiError(ProblemCode.TOKEN_INVALID, "The token is not this server's admin token.")
        return AuthenticatedOperatorCall(path_params)

    async def _dispatch(
        self, call: OperatorCall, authenticated: AuthenticatedOperatorCall, body: bytes
    ) -> Response:
        if not all(text.isprintable() for text in authenticated.path_params.values()):
            # PostgreSQL fails where it is asked for such a text.
            raise ApiError(ProblemCode.NOT_FOUND, "An address has no control characters.")
        response = await self._handlers[call.name](authenticated.path_params, body)
        if call.method != "GET":
            # The call succeeded, so each path parameter names something that exists, or a checked new name.
            _log.info("operator call", call=call.name, **authenticated.path_params)
        return response

    async def _populations(self, _path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(PopulationList(populations=await self._population_service.all()))

    async def _create_population(self, path_params: Mapping[str, str], body: bytes) -> Response:
        name = PopulationName(_name(path_params["population"], "population"))
        return JSON.response(await self._population_service.create(name, body), status=201)

    async def _preview_cohort(self, path_params: Mapping[str, str], body: bytes) -> Response:
        name = PopulationName(_name(path_params["population"], "population"))
        try:
            question = msgspec.json.decode(body, type=CohortQuestion)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(
                ProblemCode.MALFORMED_BODY, f"{wire.without_values(str(error)).rstrip('.')}."
            ) from None
        return JSON.response(await self._population_service.preview_cohort(name, question.cohort))

    async def _roll_back(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, RollbackOrder)
        return JSON.response(
            await self._population_service.roll_back(PopulationName(path_params["population"]), order)
        )

    async def _rename_population(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order, name = _order(body, RenameOrder), PopulationName(path_params["population"])
        return JSON.response(await self._population_service.rename(name, order))

    async def _delete_population(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order, name = _order(body, DeletionOrder), PopulationName(path_params["population"])
        return JSON.response(await self._population_service.delete(name, order))

    async def _tasks(self, _path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(TaskList(tasks=await self._task_service.all()))

    async def _create_task(self, _path_params: Mapping[str, str], body: bytes) -> Response:
        try:
            spec = parse_task(body.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ApiError(ProblemCode.INVALID_TASK, "The task is not UTF-8 text.") from None
        except RecursionError:
            raise ApiError(ProblemCode.INVALID_TASK, "The task is nested too deeply.") from None
        except TaskError as error:
            raise ApiError(ProblemCode.INVALID_TASK, str(error), problems=error.problems) from None
        created = await self._task_service.create(spec)
        return with_header(JSON.response(created, status=201), "location", f"/admin/v1/tasks/{created.name}")

    async def _task(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._task_service.get(path_params["task"]))

    async def _pause_task(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._task_service.pause(path_params["task"]))

    async def _resume_task(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._task_service.resume(path_params["task"]))

    async def _cancel_task(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._task_service.cancel(path_params["task"]))

    async def _rounds(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(RoundList(rounds=await self._task_service.rounds(path_params["task"])))

    async def _round(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._task_service.round(RoundId(path_params["round"])))

    async def _accept_round(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, DecisionOrder)
        return JSON.response(await self._task_service.accept_round(RoundId(path_params["round"]), order))

    async def _discard_round(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, DecisionOrder)
        return JSON.response(await self._task_service.discard_round(RoundId(path_params["round"]), order))

    async def _devices(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(
            await self._quarantine_service.devices(PopulationName(path_params["population"]))
        )

    async def _device(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._quarantine_service.device(DeviceId(path_params["device"])))

    async def _quarantine_device(self, path_params: Mapping[str, str], body: bytes) -> Response:
        order = _order(body, QuarantineOrder)
        return JSON.response(
            await self._quarantine_service.quarantine(DeviceId(path_params["device"]), order)
        )

    async def _release_device(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        return JSON.response(await self._quarantine_service.release(DeviceId(path_params["device"])))

    async def _revoke_device(self, path_params: Mapping[str, str], _body: bytes) -> Response:
        device = DeviceId(path_params["device"])
        await self._revocations.revoke(device)
        return JSON.response(await self._quarantine_service.device(device))


def _order(body: bytes, kind: type[Order]) -> Order:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"The order cannot be read: {wire.without_values(str(error))}."
        raise ApiError(ProblemCode.MALFORMED_BODY, detail) from None


def _name(text: str, noun: str) -> str:
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError as error:
        raise ApiError(ProblemCode.MALFORMED_BODY, f"The {noun}'s name in the address: {error}.") from None

"""Phones that leave in the middle of a round: forgotten, revoked, or with a replaced token.

Each phone has a coordinate of its own in the round that it was assigned in. A report that was sent after the
server had confirmed the departure must be in no sum. One that raced with the confirmation may be in the sum
or not; it is there if the phone has a receipt.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import aiohttp
import numpy as np
from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.one_hot_fleet import JUDGES, LAYOUT
from tests.recovery.recorded_state import ROUNDING_TOLERANCE, RecordedState

from keyflock_compression import encode, parse_spec
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Request, Response
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.protocol.messages import (
    PROTOCOL,
    Assignment,
    CheckIn,
    CheckInAnswer,
    Enrolment,
    EnrolRequest,
    Failure,
    FailureCause,
    Receipt,
    Refusal,
    Report,
)

#: Coordinates of the departing phones, beyond those of the phones that stay; used again in later rounds.
COORDINATES: Final = range(JUDGES.stop, LAYOUT.size)
#: Seconds after which a lost call is made again.
_RETRY_CALL_S: Final = 0.05
#: Seconds after which a check-in that got no work is made again, where the return window is shorter.
_RETRY_CHECK_IN_S: Final = 0.2


class Departure(StrEnum):
    """How a phone leaves."""

    #: It sends ``DELETE /v1/devices/me``, and then a report.
    FORGOTTEN = "forgotten"
    #: It sends ``DELETE /v1/devices/me`` and a report at once.
    FORGOTTEN_WHILE_REPORTING = "forgotten while reporting"
    #: An operator revokes its tokens, and then it reports.
    REVOKED = "revoked"
    #: It refreshes its token, and then reports with the old one.
    REFRESHED = "refreshed"


@dataclass(frozen=True, slots=True)
class DepartedPhone:
    """A phone that has left, and the report that it sent."""

    coordinate: int
    round: RoundId
    departure: Departure
    #: Whether it got a receipt for the report.
    is_acked: bool
    #: Whether the report was sent after the server had confirmed the departure.
    was_sent_after_departure: bool


@dataclass
class DepartingPhones:
    """Enrol phones one after the other, and let each leave in the middle of a round.

    Args:
        exchange: Reaches any of the servers.
        admin: Returns the address of an operators' port that answers now, and the token.
        populations: The population for each kind of departure; one that leaves its slot taken needs a round
            with a deadline.
        token_void_within_s: How long another replica may take to hear of a void token.
    """

    exchange: LoadBalancedExchange
    admin: Callable[[], Awaitable[tuple[str, str]]]
    populations: Mapping[Departure, PopulationName]
    token_void_within_s: float
    departed: list[DepartedPhone] = field(default_factory=list)
    #: Ids of the devices that departed; their rows are checked here, and not with the others.
    devices: set[DeviceId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._coordinates = itertools.cycle(COORDINATES)
        self._is_stopping = asyncio.Event()

    async def run(self) -> None:
        """Run one phone after the other until ``stop``; the phone at hand is run to its end."""
        departures = itertools.cycle(Departure)
        while not self._is_stopping.is_set():
            await self._run_one_phone(next(departures))

    def stop(self) -> None:
        """Begin no further phone."""
        self._is_stopping.set()

    async def _run_one_phone(self, departure: Departure) -> None:
        phone = await self._enrol(departure)
        assignment = await self._wait_for_assignment(phone)
        if assignment is None:
            return
        coordinate = next(self._coordinates)
        body = wire.encode(Report(delta=_one_hot_delta(coordinate, assignment), examples=1))
        is_after_departure = departure is not Departure.FORGOTTEN_WHILE_REPORTING
        token = phone.token
        if is_after_departure:
            await self._depart(departure, phone)
            answer = await self._report(assignment, token, body)
        else:
            answer, _ = await asyncio.gather(
                self._report(assignment, token, body), self._depart(departure, phone)
            )
        if departure is Departure.REFRESHED:
            await self._return_assignment(assignment, phone)
        is_acked = answer.status == 200 and wire.decode(answer.body, Receipt).counted
        self.departed.append(
            DepartedPhone(coordinate, assignment.round, departure, is_acked, is_after_departure)
        )

    async def _enrol(self, departure: Departure) -> "_EnrolledPhone":
        population = self.populations[departure]
        request = EnrolRequest(protocol=PROTOCOL, population=population, app_build=1, locale="en")
        enrolment = wire.decode((await self._call_until_answered(calls.ENROL, request)).body, Enrolment)
        self.devices.add(enrolment.device)
        return _EnrolledPhone(enrolment.device, enrolment.token, population)

    async def _wait_for_assignment(self, phone: "_EnrolledPhone") -> Assignment | None:
        """Return the phone's first assignment; None after ``stop``."""
        message = CheckIn(protocol=PROTOCOL, app_build=1, locale="en", examples=4)
        while not self._is_stopping.is_set():
            answer = await self._call_until_answered(calls.CHECK_IN, message, phone.token)
            found: Assignment | Refusal = wire.decode(answer.body, CheckInAnswer)  # type: ignore[arg-type]
            if isinstance(found, Assignment):
                return found
            await asyncio.sleep(max(_RETRY_CHECK_IN_S, found.return_window.min_s))
        return None

    async def _depart(self, departure: Departure, phone: "_EnrolledPhone") -> None:
        match departure:
            case Departure.FORGOTTEN | Departure.FORGOTTEN_WHILE_REPORTING:
                # A call that is repeated because its answer was lost finds the token void.
                await self._call_until_answered(calls.FORGET, None, phone.token, accepted_statuses=(401,))
            case Departure.REVOKED:
                await self._revoke(phone.device)
                await asyncio.sleep(self.token_void_within_s)
            case Departure.REFRESHED:
                request = EnrolRequest(
                    protocol=PROTOCOL, population=phone.population, app_build=1, locale="en"
                )
                renewed = await self._call_until_answered(
                    calls.ENROL, request, phone.token, accepted_statuses=(401,)
                )
                if renewed.status == 200:
                    phone.token = wire.decode(renewed.body, Enrolment).token
                await asyncio.sleep(GRACE_S + self.token_void_within_s)

    async def _report(self, assignment: Assignment, token: str, body: bytes) -> Response:
        """Send the report until the server gives an answer that will not change."""
        while True:
            answer = await self._send(calls.REPORT, body, token, assignment)
            if answer is not None and answer.status != 503:
                return answer
            await asyncio.sleep(_RETRY_CALL_S)

    async def _return_assignment(self, assignment: Assignment, phone: "_EnrolledPhone") -> None:
        body = wire.encode(Failure(cause=FailureCause.INTERRUPTED))
        for _ in range(100):
            answer = await self._send(calls.FAILURE, body, phone.token, assignment)
            if answer is not None and answer.status != 503:
                return
            await asyncio.sleep(_RETRY_CALL_S)

    async def _revoke(self, device: DeviceId) -> None:
        while True:
            url, token = await self.admin()
            try:
                async with (
                    aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
                    session.post(
                        f"{url}/admin/v1/devices/{device}/revoke", json={"reason": "a drill"}
                    ) as answer,
                ):
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(_RETRY_CALL_S)

    async def _call_until_answered(
        self, call: Call, message: Message | None, token: str = "", accepted_statuses: tuple[int, ...] = ()
    ) -> Response:
        """Repeat a call until it is answered with 200 or an accepted status, and return the answer."""
        body = b"" if message is None else wire.encode(message)
        while True:
            answer = await self._send(call, body, token)
            if answer is not None and (answer.status == 200 or answer.status in accepted_statuses):
                return answer
            await asyncio.sleep(_RETRY_CALL_S)

    async def _send(
        self, call: Call, body: bytes, token: str, assignment: Assignment | None = None
    ) -> Response | None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body:
            headers["Content-Type"] = call.media_type
        path = call.path
        if assignment is not None:
            headers[calls.ASSIGNMENT_HEADER] = assignment.token
            path = path.format(assignment=assignment.id)
        try:
            return await self.exchange.send(Request(call.method, path, headers, body))
        except ConnectionError:
            return None


#: How long a replaced token stays valid, as the servers' settings say.
GRACE_S: Final = 0.3


@dataclass
class _EnrolledPhone:
    device: DeviceId
    token: str
    population: PopulationName


def check_departed(departed: Sequence[DepartedPhone], recorded: RecordedState) -> list[str]:
    """Return a line for each report that is in a sum and must not be, or is not and must be."""
    late_acked = [one for one in departed if one.was_sent_after_departure and one.is_acked]
    violations = [f"{one.round} took a report of a phone {one.departure}" for one in late_acked]
    min_counts: Counter[tuple[RoundId, int]] = Counter()
    max_counts: Counter[tuple[RoundId, int]] = Counter()
    for one in departed:
        key = (recorded.final_round_of(one.round), one.coordinate)
        min_counts[key] += one.is_acked
        max_counts[key] += not one.was_sent_after_departure
    for round_id, round_sum in recorded.round_sums.items():
        for coordinate in COORDINATES:
            weight, key = float(round_sum.weight_by_phone[coordinate]), (round_id, coordinate)
            if not min_counts[key] - ROUNDING_TOLERANCE <= weight <= max_counts[key] + ROUNDING_TOLERANCE:
                expected = f"{min_counts[key]} to {max_counts[key]}"
                violations.append(f"the sum of {round_id} has {weight:g} of phones that left, for {expected}")
    return violations


def _one_hot_delta(coordinate: int, assignment: Assignment) -> bytes:
    delta = np.zeros(LAYOUT.size, np.float32)
    delta[coordinate] = -1.0
    return encode(delta, LAYOUT, parse_spec(assignment.codec), seed=0)

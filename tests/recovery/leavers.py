"""Phones that leave in the middle of a round: forgotten, revoked, or with a token that was refreshed away.

Each life has a coordinate of its own in the round that it was assigned in. A report that was sent after the
server said that the phone is gone must be in no sum; one that raced with that answer may be in the sum or
not, and is there if the phone has a receipt.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import aiohttp
import numpy as np
from tests.recovery.any_server import AnyServer
from tests.recovery.books import ROUNDING, Books
from tests.recovery.marks import LAYOUT

from keyflock_compression import CodecSpec, encode
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Request, Response
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
    Message,
    Receipt,
    Refusal,
    Report,
)

#: Coordinates of the lives, beyond those of the phones that stay; used again in later rounds.
COORDINATES: Final = range(40, LAYOUT.size)
#: A lost call is made again after so long.
_PAUSE_S: Final = 0.05
#: A check-in that gets no work is made again after so long; the tasks' windows are longer.
_WINDOW_S: Final = 0.2


class Departure(StrEnum):
    """How a phone leaves."""

    #: ``DELETE /v1/devices/me``, and then a report.
    FORGOTTEN = "forgotten"
    #: Both at once.
    FORGOTTEN_WHILE_REPORTING = "forgotten while reporting"
    #: An operator revokes its tokens, and then it reports.
    REVOKED = "revoked"
    #: It refreshes its token, and then reports with the old one.
    REFRESHED = "refreshed"


@dataclass(frozen=True, slots=True)
class Life:
    """One phone's short life."""

    coordinate: int
    round: RoundId
    departure: Departure
    #: Whether the report holds a receipt.
    is_acked: bool
    #: Whether nothing of it was sent before the server had said that the phone is gone.
    is_late: bool


@dataclass
class Leavers:
    """Lives one after the other.

    Args:
        exchange: To any of the servers.
        admin: Gives the address of an operator's port that answers now, and the token.
        populations: Where a departure is tried; one whose slot stays taken needs a round with a deadline.
        bound_s: How long another replica may take to hear of a void token.
        seed: Of the departures.
    """

    exchange: AnyServer
    admin: Callable[[], Awaitable[tuple[str, str]]]
    populations: Mapping[Departure, PopulationName]
    bound_s: float
    seed: int
    lives: list[Life] = field(default_factory=list)
    #: Devices that were leavers: their rows are judged here, and not with the others.
    devices: set[DeviceId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"leavers:{self.seed}")
        self._coordinates = itertools.cycle(COORDINATES)
        self._is_enough = asyncio.Event()

    async def run(self) -> None:
        """Live until told to finish; the life at hand is lived to its end."""
        departures = itertools.cycle(Departure)
        while not self._is_enough.is_set():
            await self._live(next(departures))

    def finish(self) -> None:
        """Begin no further life."""
        self._is_enough.set()

    async def _live(self, departure: Departure) -> None:
        phone = await self._enrolled(departure)
        assignment = await self._assigned(phone)
        if assignment is None:
            return
        coordinate = next(self._coordinates)
        body = wire.encode(Report(delta=_mark(coordinate, assignment), examples=1))
        is_late = departure is not Departure.FORGOTTEN_WHILE_REPORTING
        token = phone.token
        if is_late:
            await self._depart(departure, phone)
            answer = await self._report(assignment, token, body)
        else:
            answer, _ = await asyncio.gather(
                self._report(assignment, token, body), self._depart(departure, phone)
            )
        if departure is Departure.REFRESHED:
            await self._give_back(assignment, phone)
        is_acked = answer.status == 200 and wire.decode(answer.body, Receipt).counted
        self.lives.append(Life(coordinate, assignment.round, departure, is_acked, is_late))

    async def _enrolled(self, departure: Departure) -> "_Phone":
        population = self.populations[departure]
        request = EnrolRequest(protocol=PROTOCOL, population=population, app_build=1, locale="en")
        enrolment = wire.decode((await self._sure(calls.ENROL, request)).body, Enrolment)
        self.devices.add(enrolment.device)
        return _Phone(enrolment.device, enrolment.token, population)

    async def _assigned(self, phone: "_Phone") -> Assignment | None:
        """Its first assignment; None if it is told to finish before there is one."""
        message = CheckIn(protocol=PROTOCOL, app_build=1, locale="en", examples=4)
        while not self._is_enough.is_set():
            answer = await self._sure(calls.CHECK_IN, message, phone.token)
            found: Assignment | Refusal = wire.decode(answer.body, CheckInAnswer)  # type: ignore[arg-type]
            if isinstance(found, Assignment):
                return found
            await asyncio.sleep(max(_WINDOW_S, found.return_window.min_s))
        return None

    async def _depart(self, departure: Departure, phone: "_Phone") -> None:
        match departure:
            case Departure.FORGOTTEN | Departure.FORGOTTEN_WHILE_REPORTING:
                # A repeated one whose first answer was lost finds the token void.
                await self._sure(calls.FORGET, None, phone.token, also=(401,))
            case Departure.REVOKED:
                await self._revoke(phone.device)
                await asyncio.sleep(self.bound_s)
            case Departure.REFRESHED:
                request = EnrolRequest(
                    protocol=PROTOCOL, population=phone.population, app_build=1, locale="en"
                )
                renewed = await self._sure(calls.ENROL, request, phone.token, also=(401,))
                if renewed.status == 200:
                    phone.token = wire.decode(renewed.body, Enrolment).token
                await asyncio.sleep(GRACE_S + self.bound_s)

    async def _report(self, assignment: Assignment, token: str, body: bytes) -> Response:
        """The report, until the server has an answer that will not change."""
        while True:
            answer = await self._send(calls.REPORT, body, token, assignment)
            if answer is not None and answer.status != 503:
                return answer
            await asyncio.sleep(_PAUSE_S)

    async def _give_back(self, assignment: Assignment, phone: "_Phone") -> None:
        body = wire.encode(Failure(cause=FailureCause.INTERRUPTED))
        for _ in range(100):
            answer = await self._send(calls.FAILURE, body, phone.token, assignment)
            if answer is not None and answer.status != 503:
                return
            await asyncio.sleep(_PAUSE_S)

    async def _revoke(self, device: DeviceId) -> None:
        while True:
            url, token = await self.admin()
            try:
                async with (
                    aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
                    session.post(f"{url}/admin/v1/devices/{device}/revoke") as answer,
                ):
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(_PAUSE_S)

    async def _sure(
        self, call: Call, message: Message | None, token: str = "", also: tuple[int, ...] = ()
    ) -> Response:
        """The answer of a call that is made until it is answered well."""
        body = b"" if message is None else wire.encode(message)
        while True:
            answer = await self._send(call, body, token)
            if answer is not None and (answer.status == 200 or answer.status in also):
                return answer
            await asyncio.sleep(_PAUSE_S)

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


#: How long a token that was refreshed away may still be shown, as the servers are told.
GRACE_S: Final = 0.3


@dataclass
class _Phone:
    device: DeviceId
    token: str
    population: PopulationName


def wrongly_counted(lives: Sequence[Life], books: Books) -> list[str]:
    """What is in the sums and must not be, or is not and must be; a line each."""
    acked = [life for life in lives if life.is_late and life.is_acked]
    faults = [f"{life.round} took a report of a phone {life.departure}" for life in acked]
    least: Counter[tuple[RoundId, int]] = Counter()
    most: Counter[tuple[RoundId, int]] = Counter()
    for life in lives:
        place = (books.aggregate_of(life.round), life.coordinate)
        least[place] += life.is_acked
        most[place] += not life.is_late
    for round_id, aggregate in books.aggregates.items():
        for coordinate in COORDINATES:
            mark, place = float(aggregate.marks[coordinate]), (round_id, coordinate)
            if not least[place] - ROUNDING <= mark <= most[place] + ROUNDING:
                wanted = f"{least[place]} to {most[place]}"
                faults.append(f"the sum of {round_id} has {mark:g} of phones that left, for {wanted}")
    return faults


def _mark(coordinate: int, assignment: Assignment) -> bytes:
    delta = np.zeros(LAYOUT.size, np.float32)
    delta[coordinate] = -1.0
    return encode(delta, LAYOUT, CodecSpec.from_wire(assignment.codec), seed=0)

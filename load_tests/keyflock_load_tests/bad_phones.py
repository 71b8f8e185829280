"""What bad phones send, and the answers that a server may give to it.

Each act is one way to be wrong: bytes that are no HTTP, a body that is no message, a token that nobody
signed, more than the limit, half a request, a delta that is not a number, a report sent again. A server
refuses each with the code that says why, and does nothing else; any other answer breaks the run.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from keyflock_compression import DEFAULT_LIMITS
from keyflock_compression.container import parse
from keyflock_load_tests.measured_calls import CallFailure, MeasuredCalls, request_of
from keyflock_load_tests.measurement import BAD_PHONE, Sample
from keyflock_load_tests.phone_script import (
    DeltaFor,
    OpenConnection,
    PhoneState,
    check_in_request,
    report_request,
)
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.problems import ProblemCode

_NO_HTTP_BYTES: Final = 700
_SLOW_BYTE_S: Final = 0.25
#: Ends of a connection on which no answer came: the server closed it, or the phone got tired of holding it.
CLOSED: Final = "closed"
HELD: Final = "held"
_NO_WORK: Final = "no work"
#: Ends that say nothing of how the server takes an act: it has no time, or no work for this phone.
_UNJUDGED: Final = frozenset(
    {ProblemCode.OVERLOADED, ProblemCode.NOT_READY, "503", "lost", "timeout", _NO_WORK}
)


@dataclass(frozen=True, slots=True)
class BadPhone:
    """One bad phone's visit.

    Args:
        phone: Its token is a real one.
        url: The server's address.
        hold_s: How long it holds what it does not finish.
        delta_for: Returns an encoded delta that fits an assignment.
        open_connection: Opens a connection for calls that are well-formed.
        measured: Sends and measures those.
        rng: Draws garbage.
    """

    phone: PhoneState
    url: str
    hold_s: float
    delta_for: DeltaFor
    open_connection: OpenConnection
    measured: MeasuredCalls
    rng: random.Random

    async def run(self, name: str, due_at_s: float) -> None:
        """Do the act of this name, and record what came of it."""
        act = ACTS[name]
        sent_at_s = self.measured.clock()
        outcome = await act.play(self)
        measurements = self.measured.measurements
        if outcome not in act.expected | _UNJUDGED:
            measurements.hostile_surprises[f"{name}: {outcome}"] += 1
        measurements.endings["bad phone"] += 1
        measurements.samples.append(
            Sample(
                name + BAD_PHONE,
                due_at_s,
                sent_at_s,
                self.measured.clock(),
                "ok" if outcome in act.expected else outcome,
                int(outcome) if outcome.isdigit() else 0,
            )
        )

    async def send(self, request: Request) -> str:
        """Send a well-formed request; return the problem's code, or the status."""
        sent_at_s = self.measured.clock()
        try:
            async with self.open_connection() as connection:
                answer = await self.measured.send(connection, calls.REPORT, request, due_at_s=sent_at_s)
        except CallFailure as failure:
            return failure.outcome
        receipt = wire.decode(answer.body, messages.Receipt)
        return "duplicate" if receipt.duplicate else "counted"

    async def take_work(self) -> messages.Assignment | None:
        """Check in as an honest phone does; return the assignment, or None if there is none."""
        try:
            async with self.open_connection() as connection:
                answer = await self.measured.send(
                    connection,
                    calls.CHECK_IN,
                    check_in_request(self.phone),
                    due_at_s=self.measured.clock(),
                )
        except CallFailure:
            return None
        found: messages.CheckInAnswer = wire.decode(answer.body, messages.CheckInAnswer)  # type: ignore[arg-type]  # a union of two messages
        return found if isinstance(found, messages.Assignment) else None

    async def send_raw(self, *pieces: bytes) -> str:
        """Send bytes that are to be answered; return the answer's status, or how the connection ended."""
        outcome = await self._converse(pieces, 0.0, self.measured.answer_timeout_s)
        return "timeout" if outcome == HELD else outcome

    async def hold(self, *pieces: bytes, pause_s: float = 0.0) -> str:
        """Send a part of a request, and hold the connection; return the answer's status, or how it ended."""
        return await self._converse(pieces, pause_s, self.hold_s)

    async def _converse(self, pieces: tuple[bytes, ...], pause_s: float, hold_s: float) -> str:
        address = urlsplit(self.url)
        try:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            return "lost"
        answer = asyncio.ensure_future(reader.readline())
        try:
            async with asyncio.timeout(hold_s):
                for piece in pieces:
                    if answer.done():
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                line = await answer
        except TimeoutError:
            return HELD
        except OSError:
            return CLOSED
        finally:
            answer.cancel()
            writer.close()
            await asyncio.gather(answer, writer.wait_closed(), return_exceptions=True)
        return line[9:12].decode() if line.startswith(b"HTTP/1.1 ") else CLOSED

    def head(self, call: calls.Call, length: int, token: str | None = None) -> bytes:
        """Return a request's head with the phone's token, or another one, and this length of the body."""
        request = request_of(call, self.phone.token if token is None else token, assignment=None)
        given = {
            **request.headers,
            "Host": "x",
            "Content-Type": calls.MEDIA_TYPE,
            "Content-Length": str(length),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"{request.method} {request.path} HTTP/1.1\r\n{lines}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Act:
    """One way to be bad."""

    play: Callable[[BadPhone], Awaitable[str]]
    #: The statuses, problem codes or ends that it may come to.
    expected: frozenset[str]


async def _garbage_bytes(bad: BadPhone) -> str:
    return await bad.send_raw(bad.rng.randbytes(_NO_HTTP_BYTES) + b"\r\n\r\n")


async def _garbage_body(bad: BadPhone) -> str:
    body = bad.rng.randbytes(bad.rng.randint(1, 4_000))
    return await bad.send_raw(bad.head(calls.CHECK_IN, len(body)) + body)


async def _wrong_token(bad: BadPhone) -> str:
    request = check_in_request(replace(bad.phone, token=bad.phone.token[:-8] + "AAAAAAAA"))
    sent_at_s = bad.measured.clock()
    try:
        async with bad.open_connection() as connection:
            await bad.measured.send(connection, calls.CHECK_IN, request, due_at_s=sent_at_s)
    except CallFailure as failure:
        return failure.outcome
    return "200"


async def _oversize(bad: BadPhone) -> str:
    length = calls.SMALL_BODY_BYTES + 1
    return await bad.send_raw(bad.head(calls.CHECK_IN, length), b"\x81" * length)


async def _half_open(bad: BadPhone) -> str:
    return await bad.hold(b"POST /v1/check-ins HTTP/1.1\r\nHost: x\r\n")


async def _slow_head(bad: BadPhone) -> str:
    head = bad.head(calls.CHECK_IN, 10)
    pieces = tuple(head[at : at + 1] for at in range(min(len(head) - 4, int(bad.hold_s / _SLOW_BYTE_S) + 1)))
    return await bad.hold(*pieces, pause_s=_SLOW_BYTE_S)


async def _half_a_body(bad: BadPhone) -> str:
    return await bad.hold(bad.head(calls.CHECK_IN, 5_000), b"\x81")


async def _not_a_number(bad: BadPhone) -> str:
    assignment = await bad.take_work()
    if assignment is None:
        return _NO_WORK
    delta = not_a_number(bad.delta_for(assignment))
    return await bad.send(report_request(bad.phone, assignment, delta, 0.0))


async def _replay(bad: BadPhone) -> str:
    """Send one report four times at once, and then other bytes for the same assignment."""
    assignment = await bad.take_work()
    if assignment is None:
        return _NO_WORK
    receipts = bad.measured.measurements.receipts
    delta = bad.delta_for(assignment)
    request = report_request(bad.phone, assignment, delta, 0.0)
    receipts.send(assignment.id)
    answers = await asyncio.gather(*(bad.send(request) for _ in range(4)))
    if {"counted", "duplicate"} & set(answers):
        # All that wait for the same flush get the same receipt, so several may say "counted".
        receipts.ack(assignment.id, is_duplicate=False)
    other_phone = replace(bad.phone, examples=bad.phone.examples - 1)
    other = await bad.send(report_request(other_phone, assignment, delta, 0.0))
    surprises = set(answers) - _REPLAYED - _UNJUDGED
    return min(surprises) if surprises else other


#: A part of a request is refused, or the server waits for the rest for a while and closes.
_UNFINISHED: Final = frozenset({"400", "408", CLOSED, HELD})
#: What the same bytes may be answered: by the receipt, or that it waits, or that the round is over.
_REPLAYED: Final = frozenset(
    {"counted", "duplicate", ProblemCode.REPORT_PENDING, ProblemCode.ROUND_GONE, ProblemCode.QUARANTINED}
)

ACTS: Final[Mapping[str, Act]] = MappingProxyType(
    {
        "garbage_bytes": Act(_garbage_bytes, frozenset({"400", CLOSED})),
        "garbage_body": Act(_garbage_body, frozenset({"400", "422"})),
        "wrong_token": Act(_wrong_token, frozenset({ProblemCode.TOKEN_INVALID})),
        "oversize": Act(_oversize, frozenset({"413", CLOSED})),
        "half_open": Act(_half_open, _UNFINISHED),
        "slow_head": Act(_slow_head, _UNFINISHED),
        "half_a_body": Act(_half_a_body, _UNFINISHED),
        "not_a_number": Act(
            _not_a_number,
            frozenset(
                {
                    *(ProblemCode.NON_FINITE_DELTA, ProblemCode.MALFORMED_DELTA),
                    *(ProblemCode.ROUND_GONE, ProblemCode.QUARANTINED),
                }
            ),
        ),
        "replay": Act(
            _replay,
            frozenset({ProblemCode.REPORT_CONFLICT, ProblemCode.ROUND_GONE, ProblemCode.QUARANTINED}),
        ),
    }
)


def not_a_number(delta: bytes) -> bytes:
    """Return a container that is intact and whose scales are not numbers."""
    container = parse(delta, DEFAULT_LIMITS)
    nothing = np.full(max(1, len(container.scales) // 4), np.nan, np.float32).tobytes()
    return replace(container, scales=nothing).to_bytes()

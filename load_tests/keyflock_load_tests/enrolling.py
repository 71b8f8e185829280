"""How a fleet gets its tokens before the clock starts: over HTTP, or as copies of one phone."""

import asyncio
import random
from typing import Final

from keyflock_load_tests.cloned_fleet import EnrolledPhone, clone_phone
from keyflock_load_tests.connection import HttpConnection
from keyflock_load_tests.phone_script import PhoneState, enrolment_request
from keyflock_load_tests.server_group import ServerGroup
from keyflock_server.protocol import messages, wire

_AT_ONCE: Final = 32
_EXAMPLES: Final = (16, 256)
#: A fleet from this size on is copied, where the database is SQLite: a million enrolments would take a
#: quarter of an hour.
_COPIED_FROM: Final = 1_000
#: A server that is not fast enough says so, and is asked again after a pause.
_OVERLOADED: Final = 503
_PAUSE_S: Final = 0.5


async def enrol_fleet(group: ServerGroup, population: str, size: int, seed: int) -> list[PhoneState]:
    """Return ``size`` phones of a population, enrolled with all servers of the group."""
    draw = random.Random(seed)
    examples = [draw.randint(*_EXAMPLES) for _ in range(size)]
    if size < _COPIED_FROM or not group.is_embedded:
        tokens = await _enrol(group, population, size)
    else:
        first = await _enrol_one(group, population)
        async with group.stopped() as data_dir:
            copies = clone_phone(data_dir, first, size, seed=seed)
        tokens = [token.decode("ascii") for token in copies]
    return [PhoneState(token, count) for token, count in zip(tokens, examples, strict=True)]


async def _enrol(group: ServerGroup, population: str, size: int) -> list[str]:
    """Enrol over HTTP. It is no part of the load, so only some phones enrol at once."""
    turn = asyncio.Semaphore(_AT_ONCE)
    request = enrolment_request(population)

    async with HttpConnection(group.processes[0].sdk_url) as line:

        async def enrol() -> str:
            async with turn:
                answer = await line.send(request)
                while answer.status == _OVERLOADED:
                    await asyncio.sleep(_PAUSE_S)
                    answer = await line.send(request)
            return wire.decode(answer.body, messages.Enrolment).token

        return await asyncio.gather(*(enrol() for _ in range(size)))


async def _enrol_one(group: ServerGroup, population: str) -> EnrolledPhone:
    async with HttpConnection(group.processes[0].sdk_url) as line:
        answer = await line.send(enrolment_request(population))
    enrolled = wire.decode(answer.body, messages.Enrolment)
    return EnrolledPhone(enrolled.device, enrolled.token)

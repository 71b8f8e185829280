"""A creation that is repeated with its key creates nothing more."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.memory_store.idempotency import MemoryIdempotencyRepository
from tests.memory_store.rows import MemoryRows
from tests.memory_store.store import MemoryStore

from keyflock_server.http.operators.repeated_creations import (
    ABANDONED_AFTER,
    KEPT,
    RepeatedCreations,
    request_digest,
)
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REQUEST, OTHER = request_digest("/t", "toml", b"one"), request_digest("/t", "toml", b"two")


class Creator:
    """Creates, and counts how often."""

    def __init__(self) -> None:
        self.now, self.created = NOW, 0
        self.refusal: BaseException | None = None
        self.creations = RepeatedCreations(MemoryStore().idempotency, lambda: self.now)

    async def create(self) -> Response:
        if self.refusal is not None:
            raise self.refusal
        self.created += 1
        return Response(201, {"location": "/t/1"}, b'{"number": %d}' % self.created)

    async def ask(self, key: str = "k", digest: bytes = REQUEST, operator: str = "root") -> Response:
        return await self.creations.answer(operator, key, "create_task", digest, self.create)


class UnreleasedKeys(MemoryIdempotencyRepository):
    """Keys of a process that is gone before it can release one."""

    async def release(self, operator: str, key: str) -> None:
        del operator, key


@pytest.fixture
def creator() -> Creator:
    return Creator()


async def test_the_same_request_gets_the_first_answer_again(creator: Creator) -> None:
    first, again = await creator.ask(), await creator.ask()

    assert (creator.created, first.status, again.status, again.body) == (1, 201, 201, first.body)


async def test_another_request_with_the_key_is_told_so(creator: Creator) -> None:
    await creator.ask()

    with pytest.raises(ApiError, match="stands for another request, of 2026-03-01 12:00") as refused:
        await creator.ask(digest=OTHER)

    assert (refused.value.code, creator.created) == (ProblemCode.CONFLICT, 1)


async def test_keys_of_two_operators_are_two_keys(creator: Creator) -> None:
    await creator.ask()
    await creator.ask(operator="ann")

    assert creator.created == 2


async def test_a_refused_creation_may_be_tried_again_with_its_key(creator: Creator) -> None:
    creator.refusal = ApiError(ProblemCode.CONFLICT, "There is one.")
    with pytest.raises(ApiError, match="There is one"):
        await creator.ask()
    creator.refusal = None

    assert (await creator.ask()).status == 201


async def test_a_repetition_beside_the_first_request_is_asked_to_wait(creator: Creator) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> Response:
        entered.set()
        await leave.wait()
        return await creator.create()

    first = asyncio.create_task(creator.creations.answer("root", "k", "create_task", REQUEST, slow))
    await entered.wait()
    with pytest.raises(ApiError, match="under way"):
        await creator.ask()
    leave.set()

    assert (await first).status == 201
    assert creator.created == 1


async def test_a_key_is_forgotten_after_a_day(creator: Creator) -> None:
    await creator.ask()
    creator.now += KEPT + timedelta(seconds=1)

    assert (await creator.ask(digest=OTHER)).status == 201


async def test_a_creation_that_was_killed_is_made_again(creator: Creator) -> None:
    creator.refusal = asyncio.CancelledError()
    creator.creations = RepeatedCreations(UnreleasedKeys(MemoryRows()), lambda: creator.now)
    with pytest.raises(asyncio.CancelledError):
        await creator.ask()
    creator.refusal = None
    with pytest.raises(ApiError, match="under way"):
        await creator.ask()
    creator.now += ABANDONED_AFTER + timedelta(seconds=1)

    assert (await creator.ask()).status == 201


@pytest.mark.parametrize("key", ["", "x" * 65, "a\tb", "\u00e9"])
async def test_a_key_is_a_short_plain_text(creator: Creator, key: str) -> None:
    with pytest.raises(ApiError) as refused:
        await creator.ask(key)

    assert (refused.value.code, creator.created) == (ProblemCode.MALFORMED_REQUEST, 0)

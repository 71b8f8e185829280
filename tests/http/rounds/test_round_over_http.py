"""Rounds over the real ports: phones that behave, and phones that do not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from keyflock_compression import DenseSpec, encode
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import (
    Assignment,
    Failure,
    FailureCause,
    Forgotten,
    Offer,
    OfferAction,
    OfferAnswer,
    Receipt,
    Refusal,
    RefusalReason,
    Release,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http.rounds.conftest import RoundPhone, RunningServer

DENSE = DenseSpec()
OTHER_LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=13, embedding_size=2, hidden_size=3))
THOUSAND_EMPTY_ARRAYS = b"\xdc\x03\xe8" + b"\x90" * 1000


async def cohort(server: RunningServer, count: int = 4) -> list[tuple[RoundPhone, Assignment]]:
    """Phones with an assignment each."""
    phones = [await server.phone() for _ in range(count)]
    return [(phone, await phone.assigned()) for phone in phones]


async def until_round_is(server: RunningServer, phase: str) -> dict[str, object]:
    """The task's first round, once it is in this phase."""
    async with asyncio.timeout(120.0):
        while True:
            _, answer = await server.operate("GET", "rounds?task=next-word")
            first: dict[str, object] = answer["items"][-1]
            if first["phase"] == phase:
                return first


async def until_keyboards_serve(phone: RoundPhone, version: int) -> None:
    """Return once this version is released, which a pass after the one that made it does."""
    async with asyncio.timeout(120.0):
        while True:
            answer = await phone.send(calls.RELEASE, population="en-US")
            if wire.decode(answer.body, Release).model_version == version:
                return


async def test_four_phones_make_the_next_version(server: RunningServer) -> None:
    phones = await cohort(server)

    answers = await asyncio.gather(*(phone.report(work, server.delta(work)) for phone, work in phones))
    closed = await until_round_is(server, "closed")
    await until_keyboards_serve(phones[0][0], 1)
    before = await phones[0][0].send(calls.MODEL, version=0)
    after = await phones[0][0].send(calls.MODEL, version=1)

    receipts = [wire.decode(answer.body, Receipt) for answer in answers]
    assert [(receipt.counted, receipt.duplicate) for receipt in receipts] == [(True, False)] * 4
    assert (closed["counted"], closed["result_version"]) == (4, 1)
    assert (before.status, after.status) == (200, 200)
    assert before.body != after.body


async def test_the_same_bytes_again_are_acknowledged_and_not_counted_again(server: RunningServer) -> None:
    phones = await cohort(server)
    deltas = [server.delta(work) for _, work in phones]
    await asyncio.gather(
        *(phone.report(work, delta) for (phone, work), delta in zip(phones, deltas, strict=True))
    )

    (phone, work), delta = phones[0], deltas[0]
    again = wire.decode((await phone.report(work, delta)).body, Receipt)
    closed = await until_round_is(server, "closed")

    assert (again.counted, again.duplicate) == (True, True)
    assert closed["counted"] == 4


async def test_other_bytes_for_the_same_assignment_contradict(server: RunningServer) -> None:
    phones = await cohort(server)
    await asyncio.gather(*(phone.report(work, server.delta(work)) for phone, work in phones))

    phone, work = phones[0]
    answer = await phone.report(work, server.delta(work, 0.5))

    assert (answer.status, answer.code()) == (409, "report_conflict")


async def test_a_repeated_check_in_gets_the_same_assignment(server: RunningServer) -> None:
    phone = await server.phone()

    first, second = await phone.assigned(), await phone.assigned()

    assert (first.id, first.round, first.seed) == (second.id, second.round, second.seed)


#: What a phone that is broken, or not a phone, sends, and what it hears.
BAD_DELTAS: dict[str, tuple[str, Callable[[RunningServer, Assignment], bytes]]] = {
    "empty": ("malformed_delta", lambda _site, _work: b""),
    "garbage": ("malformed_delta", lambda _site, _work: bytes(range(256)) * 10),
    "bomb": ("malformed_delta", lambda _site, _work: b"\x81\xa1v\xdc\x03\xe8" + THOUSAND_EMPTY_ARRAYS * 1000),
    "truncated": ("malformed_delta", lambda server, work: server.delta(work)[:200]),
    "flipped": ("malformed_delta", lambda server, work: server.delta(work)[:-1] + b"\x00"),
    "other codec": (
        "malformed_delta",
        lambda server, _work: encode(
            np.full(server.layout.size, 0.01, np.float32), server.layout, DENSE, seed=1
        ),
    ),
    "not a number": ("non_finite_delta", lambda server, work: server.unchecked_delta(work, float("nan"))),
    "infinite": ("non_finite_delta", lambda server, work: server.unchecked_delta(work, float("-inf"))),
    "other layout": ("wrong_layout", lambda server, work: server.unchecked_delta(work, 0.01, OTHER_LAYOUT)),
}


@pytest.mark.parametrize("case", BAD_DELTAS)
async def test_a_delta_that_is_not_what_was_asked_for_is_refused_and_costs_nothing(
    server: RunningServer, case: str
) -> None:
    code, bad_delta = BAD_DELTAS[case]
    phones = await cohort(server)
    phone, work = phones[0]

    answer = await phone.report(work, bad_delta(server, work))
    rest = await asyncio.gather(*(phone.report(work, server.delta(work)) for phone, work in phones))
    closed = await until_round_is(server, "closed")

    assert (answer.status, answer.code()) == (422, code)
    assert [one.status for one in rest] == [200] * 4
    assert closed["counted"] == 4


async def test_a_round_that_is_not_there_is_gone(server: RunningServer) -> None:
    phone = await server.phone()
    work = await phone.assigned()
    forged = server.forged(work, "next-word-999")

    answers = [
        await phone.send(calls.OFFER, Offer(size_bytes=9, model_version=ModelVersion(0)), forged),
        await phone.report(forged, server.delta(work)),
        await phone.send(calls.FAILURE, Failure(cause=FailureCause.INTERRUPTED), forged),
    ]

    offered = wire.decode(answers[0].body, OfferAnswer) if answers[0].status == 200 else None
    assert offered is None or offered.action is OfferAction.DROP
    assert (answers[1].status, answers[1].code()) == (410, "round_gone")
    assert answers[2].status in (200, 410)


async def test_an_offer_against_another_version_is_told_to_rebase(server: RunningServer) -> None:
    phone = await server.phone()
    work = await phone.assigned()

    right = await phone.send(calls.OFFER, Offer(size_bytes=9, model_version=ModelVersion(0)), work)
    wrong = await phone.send(calls.OFFER, Offer(size_bytes=9, model_version=ModelVersion(5)), work)

    assert wire.decode(right.body, OfferAnswer).action is OfferAction.SEND
    assert wire.decode(wrong.body, OfferAnswer).action is OfferAction.REBASE


async def test_a_report_after_the_round_has_closed_finds_it_gone(server: RunningServer) -> None:
    phones = await cohort(server, 5)
    await asyncio.gather(*(phone.report(work, server.delta(work)) for phone, work in phones[:4]))
    await until_round_is(server, "closed")

    phone, work = phones[4]
    offer = await phone.send(calls.OFFER, Offer(size_bytes=9, model_version=ModelVersion(0)), work)
    report = await phone.report(work, server.delta(work))

    assert wire.decode(offer.body, OfferAnswer).action in (OfferAction.DROP, OfferAction.REBASE)
    assert (report.status, report.code()) == (410, "round_gone")


async def test_a_paused_task_gives_out_no_work_and_a_resumed_one_does(server: RunningServer) -> None:
    phone = await server.phone()

    paused, _ = await server.operate("POST", "tasks/next-word/pause", b'{"reason": "a test"}')
    refusal = await phone.check_in()
    resumed, _ = await server.operate("POST", "tasks/next-word/resume", b'{"reason": "a test"}')
    work = await phone.check_in()

    assert (paused, resumed) == (200, 200)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.PAUSED
    assert isinstance(work, Assignment)


async def test_a_cancelled_task_takes_no_report(server: RunningServer) -> None:
    phone = await server.phone()
    work = await phone.assigned()

    status, task = await server.operate("POST", "tasks/next-word/cancel", b'{"reason": "a test"}')
    report = await phone.report(work, server.delta(work))
    refusal = await phone.check_in()

    assert (status, task["state"]) == (200, "cancelled")
    assert (report.status, report.code()) == (410, "round_gone")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.NO_ACTIVE_TASK


@pytest.mark.fault("D4")
async def test_a_forgotten_phone_leaves_its_users_others(server: RunningServer) -> None:
    user = "vT0hJ3qkX2m9sY8bQw5Zrg"
    first, second = await server.phone(user=user), await server.phone(user=user)

    forgotten = wire.decode((await first.send(calls.FORGET)).body, Forgotten)
    after, again = await first.try_check_in(), await first.send(calls.FORGET)

    assert forgotten.devices == 1
    assert (after.status, after.code()) == (again.status, again.code()) == (401, "token_invalid")
    assert isinstance(await second.check_in(), Assignment)


async def test_a_population_that_is_not_there_is_unknown(server: RunningServer) -> None:
    answer = await server.enrol("fr-FR")

    assert (answer.status, answer.code()) == (404, "population_unknown")


async def test_a_version_that_is_not_there_is_unknown(server: RunningServer) -> None:
    phone = await server.phone()

    answer = await phone.send(calls.MODEL, version=1)

    assert (answer.status, answer.code()) == (404, "model_unknown")


async def test_the_vocabulary_is_the_one_that_the_release_names(server: RunningServer) -> None:
    phone = await server.phone()

    answer = await phone.send(calls.VOCABULARY, population="en-US")
    release = wire.decode((await phone.send(calls.RELEASE, population="en-US")).body, Release)

    vocabulary = Vocabulary.from_bytes(answer.body)
    assert vocabulary.words[4:6] == ("word0", "word1")
    assert vocabulary.digest == release.vocabulary


@pytest.mark.parametrize("body", [b"", b"garbage", bytes(100), b"\xff" * 8 + b"{}"])
async def test_a_checkpoint_that_is_none_is_refused(bare_server: RunningServer, body: bytes) -> None:
    status, answer = await bare_server.create_population(body=body)

    assert (status, answer["code"]) == (422, "invalid_checkpoint")


async def test_a_population_is_made_once(server: RunningServer) -> None:
    status, answer = await server.create_population()

    assert (status, answer["code"]) == (409, "conflict")


async def test_a_task_is_made_once_and_for_a_population_that_is_there(server: RunningServer) -> None:
    twice, again = await server.create_task()
    elsewhere, nowhere = await server.create_task(
        server.task.replace("en-US", "fr-FR").replace("next-", "other-")
    )

    assert (twice, again["code"]) == (409, "conflict")
    assert (elsewhere, nowhere["code"]) == (404, "population_unknown")


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("goal = 4", "goal = 0", "goal"),
        ("goal = 4", "gaol = 4", "gaol"),
        ("min_flush_clients = 2", "min_flush_clients = 9", "min_flush_clients"),
        ('name = "fedavg"', 'name = "fedup"', "optimizer"),
        ('codec = "float32"', 'codec = "float3"', "codec"),
    ],
)
async def test_a_task_that_cannot_run_is_refused_with_the_field(
    server: RunningServer, old: str, new: str, where: str
) -> None:
    status, answer = await server.create_task(server.task.replace(old, new).replace("next-word", "another"))

    assert (status, answer["code"]) == (422, "invalid_task")
    assert where in answer["detail"]


async def test_no_token_and_no_delta_is_in_anything_that_the_server_keeps(
    server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    phones = await cohort(server)
    deltas = [server.delta(work, 0.1 + i / 10) for i, (_, work) in enumerate(phones)]
    await asyncio.gather(
        *(phone.report(work, delta) for (phone, work), delta in zip(phones, deltas, strict=True))
    )
    await until_round_is(server, "closed")

    stored = [path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file()]
    output = capfd.readouterr()
    for (phone, work), delta in zip(phones, deltas, strict=True):
        for secret in (phone.token.encode(), work.token.encode(), delta, delta[60:100]):
            assert not any(secret in content for content in stored)
            assert secret not in (output.out + output.err).encode()

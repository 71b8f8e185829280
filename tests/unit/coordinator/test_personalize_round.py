"""A personalize round: evidence in, priors out, with every promise that a training round keeps."""

import contextlib

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.test_crash_between_steps import (
    WRITES_OF_A_ROUND,
    ProcessKilled,
    make_dying,
    revive,
)
from tests.unit.coordinator.town import LAYOUT, POPULATION, Town, constant, report

from keyflock_compression import CodecSpec, encode
from keyflock_compression.container import Container
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    CheckIn,
    HeadPlan,
    Refusal,
    Report,
    TaskKind,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import parse_task
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.records import RoundRecord

SPEC = CodecSpec(codec="float32", entropy="none")
ABLE = Capabilities(tasks=("train", "personalize"))
TASK = f'[task]\nname = "p"\npopulation = "{POPULATION}"\nkind = "personalize"\n'
HEADS = "[[personalising.heads]]\nrank = 4\n[[personalising.heads]]\nrank = 16\n"


def evidence(gain: float = 0.25, late_gain: float = 0.25) -> NDArray[np.float32]:
    """What an honest phone might say; all numbers are exact in float32."""
    vector = np.zeros(EVIDENCE_LAYOUT.size, np.float32)
    parts = EVIDENCE_LAYOUT.unflatten(vector)
    said = {"phones": 1.0, "words": 512.0, "gain": gain, "gain_squared": gain * gain, "late_gain": late_gain}
    for name, value in (said | {"helped": 1.0, "stored_bytes": 4096.0, "seconds": 2.0}).items():
        parts[name][0] = value
    parts[RESPONSIBILITIES][:] = [0.25, 0.0, 0.25, 0.0]
    return vector


def told(vector: NDArray[np.float32]) -> Report:
    return Report(delta=encode(vector, EVIDENCE_LAYOUT, SPEC, seed=0), examples=1)


async def open_task(town: Town, rounds: str = "goal = 4", heads: str = HEADS) -> None:
    await town.coordinator.create_task(parse_task(f"{TASK}[round]\n{rounds}\n{heads}"))
    await town.coordinator.tick()


async def check_in(town: Town, who: DeviceIdentity, can: Capabilities = ABLE) -> Assignment | Refusal:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=can)
    return await town.coordinator.check_in(who, message)


async def assigned(town: Town, count: int) -> list[AssignmentClaims]:
    claims = []
    for _ in range(count):
        answer = await check_in(town, await town.enrol())
        assert isinstance(answer, Assignment), answer
        claims.append(town.claims(answer))
    return claims


async def report_all(town: Town, claims: list[AssignmentClaims], vector: NDArray[np.float32]) -> None:
    for one in claims:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, told(vector))
    for one in claims:
        await town.coordinator.report(one, told(vector))
    await town.coordinator.tick()


async def test_a_round_makes_priors_and_no_version(town: Town) -> None:
    await open_task(town)
    claims = await assigned(town, 4)

    await report_all(town, claims, evidence())

    closed = await town.coordinator.round(RoundId("p-1"))
    assert (closed.phase, closed.counted, closed.weight, closed.result_version) == ("closed", 4, 4.0, None)
    assert closed.figures is not None
    assert closed.figures["gain"] == 0.25
    assert closed.figures["share_helped"] == 1.0
    release = await town.coordinator.release(POPULATION)
    assert release.model_version == 0
    assert release.personalisation is not None
    assert release.personalisation.prior.gain_mean == 0.25
    assert release.personalisation.head == HeadPlan(rank=16)
    assert (release.personalisation.round, release.personalisation.phones) == ("p-1", 4)
    (view,) = await town.coordinator.populations()
    assert view.personalisation is not None
    assert view.personalisation["head"]["rank"] == 16
    assert view.personalisation["candidates"][0]["gain"] == 0.25
    assert {key.split("/")[0] async for key in town.blobs.list_keys()} == {"versions"}


async def test_a_population_without_such_a_round_releases_no_priors(town: Town) -> None:
    assert (await town.coordinator.release(POPULATION)).personalisation is None
    assert (await town.coordinator.populations())[0].personalisation is None


async def test_the_assignment_says_what_to_try_and_what_is_believed(town: Town) -> None:
    await open_task(town)
    device = await town.enrol()

    first, again = await check_in(town, device), await check_in(town, device)

    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert first.task_kind is TaskKind.PERSONALIZE
    assert first.layout == EVIDENCE_LAYOUT.digest
    assert first.codec == SPEC.to_wire()
    assert first.personalising is not None
    assert first.personalising.head == HeadPlan(rank=16)
    assert first.personalising.words_needed == 200
    assert (again.id, again.personalising) == (first.id, first.personalising)


async def test_the_next_round_tries_another_head_and_believes_what_the_last_one_found(town: Town) -> None:
    await open_task(town)
    await report_all(town, await assigned(town, 4), evidence())

    answer = await check_in(town, await town.enrol())

    assert isinstance(answer, Assignment)
    assert answer.round == "p-2"
    assert answer.personalising is not None
    assert answer.personalising.head == HeadPlan(rank=4)
    assert answer.personalising.prior.gain_mean == 0.25


async def test_the_head_that_gained_most_is_released(town: Town) -> None:
    await open_task(town)
    await report_all(town, await assigned(town, 4), evidence(late_gain=0.25))
    await report_all(town, await assigned(town, 4), evidence(late_gain=0.5))

    release = await town.coordinator.release(POPULATION)

    assert release.personalisation is not None
    assert release.personalisation.head == HeadPlan(rank=4)


async def test_a_phone_that_does_not_know_the_kind_gets_no_such_work(town: Town) -> None:
    await open_task(town)

    answer = await check_in(town, await town.enrol(), Capabilities())

    assert isinstance(answer, Refusal)
    assert answer.reason == "not_eligible"


async def test_a_round_that_too_few_answer_leaves_the_priors(town: Town) -> None:
    await open_task(town, "goal = 8\nminimum = 6\ndeadline_s = 60.0")
    claims = await assigned(town, 8)
    for one in claims[:5]:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, told(evidence()))

    town.pass_time(61.0)
    await town.coordinator.tick()

    assert (await town.coordinator.round(RoundId("p-1"))).phase == "abandoned"
    assert (await town.coordinator.release(POPULATION)).personalisation is None


async def test_training_and_personalising_go_on_beside_each_other(town: Town) -> None:
    await town.task(round="goal = 4")
    await open_task(town)
    answers = [await check_in(town, await town.enrol()) for _ in range(6 + 4)]
    claims = [town.claims(answer) for answer in answers if isinstance(answer, Assignment)]

    for one in claims[:4]:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, report(constant(1.0)))
    await report_all(town, claims[6:], evidence())

    assert [one.task for one in claims] == ["t"] * 6 + ["p"] * 4
    release = await town.coordinator.release(POPULATION)
    assert release.model_version == 1
    assert release.personalisation is not None
    np.testing.assert_array_equal(await town.model(1), constant(-1.0))


async def test_a_repeated_check_in_finds_the_task_that_waits_for_the_device(town: Town) -> None:
    await town.task(round="goal = 4")
    await open_task(town)
    full = [await check_in(town, await town.enrol()) for _ in range(6)]
    device = await town.enrol()
    first = await check_in(town, device)
    for answer in full:
        assert isinstance(answer, Assignment)
        with contextlib.suppress(Refused):
            await town.coordinator.report(town.claims(answer), report(constant(1.0)))
    await town.coordinator.tick()

    again = await check_in(town, device)

    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert first.task_kind is TaskKind.PERSONALIZE
    assert again.id == first.id


async def test_a_phone_hears_the_refusal_of_the_task_that_may_want_it_yet(town: Town) -> None:
    await town.task(round="goal = 4")
    await open_task(town)
    for _ in range(6):
        await check_in(town, await town.enrol(), Capabilities())

    answer = await check_in(town, await town.enrol(), Capabilities())

    assert isinstance(answer, Refusal)
    assert answer.reason == "round_full"


async def test_an_end_whose_storing_lost_its_answer_is_not_done_twice(town: Town) -> None:
    await open_task(town, "goal = 4\nmax_rounds = 1")
    claims = await assigned(town, 4)
    store = town.store.rounds
    store_it = store.publish_personalisation

    async def lose_the_answer(record: RoundRecord, personalisation_json: bytes | None) -> None:
        await store_it(record, personalisation_json)
        store.publish_personalisation = store_it  # type: ignore[method-assign]  # once only
        raise StorageError("The connection was lost after the commit.")

    store.publish_personalisation = lose_the_answer  # type: ignore[method-assign]  # the answer gets lost
    await report_all(town, claims, evidence())
    await town.coordinator.tick()

    closed = await town.coordinator.round(RoundId("p-1"))
    (view,) = await town.coordinator.populations()
    assert closed.phase == "closed"
    assert view.personalisation is not None
    assert view.personalisation["candidates"][0]["phones"] == 4.0


async def test_two_tasks_of_the_kind_would_move_the_same_priors(town: Town) -> None:
    await open_task(town)

    with pytest.raises(Refused) as refused:
        await town.coordinator.create_task(parse_task(TASK.replace('"p"', '"q"') + "[round]\ngoal = 4\n"))

    assert refused.value.code is ProblemCode.CONFLICT


def place(name: str, value: float) -> NDArray[np.float32]:
    vector = evidence()
    EVIDENCE_LAYOUT.unflatten(vector)[name].flat[0] = value
    return vector


def not_a_number() -> bytes:
    """A container that no encoder would make: whole, with a value that is not finite."""
    values = place("gain", np.nan).astype("<f4").tobytes()
    return Container(SPEC.to_wire(), EVIDENCE_LAYOUT.digest, b"", (values,)).to_bytes()


@pytest.mark.parametrize(
    ("delta", "code"),
    [
        (encode(constant(1.0), LAYOUT, SPEC, seed=0), ProblemCode.WRONG_LAYOUT),
        (
            encode(evidence(), EVIDENCE_LAYOUT, CodecSpec(codec="float32"), seed=0),
            ProblemCode.MALFORMED_DELTA,
        ),
        (not_a_number(), ProblemCode.NON_FINITE_DELTA),
        (encode(place("gain", 3e38), EVIDENCE_LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
        (encode(place("phones", 1_000.0), EVIDENCE_LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
        (encode(place("seconds", -1.0), EVIDENCE_LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
        (encode(place(RESPONSIBILITIES, 900.0), EVIDENCE_LAYOUT, SPEC, seed=0), ProblemCode.DELTA_TOO_LARGE),
    ],
    ids=["layout", "codec", "nan", "huge", "many phones", "negative", "responsibilities"],
)
async def test_a_hostile_report_is_refused_and_moves_nothing(
    town: Town, delta: bytes, code: ProblemCode
) -> None:
    await open_task(town)
    claims = await assigned(town, 5)

    with pytest.raises(Refused) as refused:
        await town.coordinator.report(claims[0], Report(delta=delta, examples=1))
    await report_all(town, claims[1:], evidence())

    assert refused.value.code is code
    release = await town.coordinator.release(POPULATION)
    assert release.personalisation is not None
    assert release.personalisation.prior.gain_mean == 0.25


async def test_a_claim_of_many_examples_weighs_no_more(town: Town) -> None:
    await open_task(town)
    claims = await assigned(town, 4)
    boast = Report(delta=told(evidence(gain=1.0)).delta, examples=1_000_000)
    with contextlib.suppress(Refused):
        await town.coordinator.report(claims[0], boast)

    for one in claims[1:]:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, told(evidence(gain=0.0)))
    await town.coordinator.tick()

    closed = await town.coordinator.round(RoundId("p-1"))
    assert closed.figures is not None
    assert closed.figures["gain"] == 0.25


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_survives_a_crash_at_every_write(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        town = Town()
        await town.coordinator.start()
        await town.found()
        await open_task(town, "goal = 8\nmax_rounds = 2")
        claims = await assigned(town, 8)

        make_dying(town, writes, after_write=after_write)
        for one in claims:
            with contextlib.suppress(Refused, ProcessKilled):
                await town.coordinator.report(one, told(evidence()))
        with contextlib.suppress(ProcessKilled):
            await town.coordinator.tick()
        revive(town)
        await town.coordinator.start()
        await report_all(town, claims, evidence())

        rounds = await town.coordinator.rounds(claims[0].task)
        (view,) = await town.coordinator.populations()
        assert (rounds[0].phase, rounds[0].counted) == (Phase.CLOSED, 8), f"after {writes} writes"
        assert view.personalisation is not None
        assert view.personalisation["candidates"][0]["phones"] == 8.0, f"after {writes} writes"
        await report_all(town, await assigned(town, 8), evidence())
        task = await town.coordinator.task(claims[0].task)
        assert (task.rounds_committed, task.state) == (2, "finished"), f"after {writes} writes"
        kinds = {key.split("/")[0] async for key in town.blobs.list_keys()}
        assert kinds == {"versions"}
        await town.coordinator.stop()

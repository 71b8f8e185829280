"""Whoever reports first, or most, decides nothing about how long honest reports may be."""

import contextlib
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_devices, listed_rounds

from keyflock_server.aggregation.norm_scale import NormScale, scales_from_json, scales_to_json
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Assignment, Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.records import RoundRecord

pytestmark = pytest.mark.fault("D10")

T = TaskName("t")
#: The default rules: clipped at 3 times the scale, refused at 100 times.
RULES = 'weighting = "uniform"'
#: An honest delta of norm 0.23, where the server's own delta has 0.21.
HONEST = 0.025
SYNC = "goal = 20\nminimum = 12\nover_selection = 0.0\ndeadline_s = 100.0"
ASYNC = 'mode = "async"\ngoal = 12\nconcurrency = 40\ndeadline_s = 100.0'


async def send(harness: CoordinatorHarness, phone: DeviceIdentity, value: float) -> Receipt | ProblemCode:
    claims = await harness.assigned(phone)
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


async def attack(harness: CoordinatorHarness, phone: DeviceIdentity, value: float) -> None:
    """Send what does harm, if there is a slot for it: refused reports before a restart pass for silence."""
    answer = await harness.check_in(phone)
    if isinstance(answer, Assignment):
        claims = harness.claims(answer)
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(claims, report(constant(value), of=claims))


async def fleet(harness: CoordinatorHarness) -> tuple[list[DeviceIdentity], list[DeviceIdentity]]:
    """Return eight hostile and twelve honest phones."""
    phones = [await harness.enrol() for _ in range(20)]
    return phones[:8], phones[8:]


async def restart(harness: CoordinatorHarness) -> None:
    """Start another process on the same store, without stopping the first."""
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    await harness.coordinator.tick()


async def scale_of(harness: CoordinatorHarness) -> float:
    return (await harness.coordinator.tasks.get(T)).norm_scales["codec"]


async def test_a_new_task_measures_by_the_servers_own_delta(harness: CoordinatorHarness) -> None:
    await harness.task(aggregation=RULES)

    task, (opened,) = await harness.coordinator.tasks.get(T), await listed_rounds(harness.coordinator, T)

    assert task.norm_scales == opened.norm_scales == {"codec": pytest.approx(0.21, abs=0.01)}


@pytest.mark.parametrize("table", [SYNC, ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["one process", "a restart a round"])
@pytest.mark.parametrize(
    "factors", [(1e-5,), (0.011,), (1e4,), (50.0,), (1e-5, 50.0)], ids=lambda given: f"times {given}"
)
async def test_eight_phones_that_report_first_neither_refuse_nor_quarantine_honest_ones(
    harness: CoordinatorHarness, table: str, is_restarted: bool, factors: tuple[float, ...]
) -> None:
    await harness.task(round=table, aggregation=RULES)
    attackers, honest = await fleet(harness)
    before = await scale_of(harness)
    codes: set[ProblemCode] = set()

    for number in range(5):
        factor = factors[number % len(factors)]
        for phone in attackers:
            await attack(harness, phone, factor * HONEST)
        codes |= {
            problem
            for phone in honest
            if isinstance(problem := await send(harness, phone, HONEST), ProblemCode)
        }
        harness.pass_time(101.0)
        for _ in range(2):
            await harness.coordinator.tick()
        if is_restarted:
            await restart(harness)

    assert codes <= {ProblemCode.REPORT_PENDING}
    seen = await listed_devices(harness.coordinator, POPULATION)
    assert [(one.is_quarantined, one.strikes) for one in seen] == [(False, [])] * 20
    versions = [
        one.result_version for one in await listed_rounds(harness.coordinator, T) if one.result_version
    ]
    assert len(versions) == 5
    assert 0.25 * before <= await scale_of(harness) <= 8.0 * before


async def test_honest_reports_are_summed_whole_beside_those_that_say_nothing(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=SYNC, aggregation=RULES)
    attackers, honest = await fleet(harness)

    for phone in attackers:
        await send(harness, phone, 1e-5 * HONEST)
    for phone in honest:
        await send(harness, phone, HONEST)
    await harness.coordinator.tick()

    (closed, _) = await listed_rounds(harness.coordinator, T)
    assert (closed.counted, closed.verdicts) == (20, {"thin_reports": 8})
    np.testing.assert_allclose(await harness.model(1), constant(-HONEST * 12 / 20), rtol=1e-2)


async def test_phones_whose_reports_say_nothing_make_no_version_of_their_own(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0\ndeadline_s = 100.0", aggregation=RULES)
    attackers = [await harness.enrol() for _ in range(8)]

    for _ in range(4):
        answers = [await send(harness, phone, 1e-5 * HONEST) for phone in attackers]
        assert answers == [ProblemCode.REPORT_PENDING] * 8
        harness.pass_time(101.0)
        await harness.coordinator.tick()
        await harness.coordinator.tick()

    assert [one.version for one in await harness.store.populations.versions()] == [0]
    assert {one.phase for one in (await listed_rounds(harness.coordinator, T))[:-1]} == {"abandoned"}


async def test_a_version_of_short_deltas_alone_does_not_have_the_next_honest_one_held(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", aggregation=RULES)

    for value in (0.011 * HONEST, HONEST):
        for _ in range(4):
            await send(harness, await harness.enrol(), value)
        await harness.coordinator.tick()

    first, second = (await listed_rounds(harness.coordinator, T))[:2]
    assert (first.result_version, second.result_version, second.detail) == (1, 2, "")


async def test_a_phone_whose_reports_a_buffer_refuses_is_not_silent(harness: CoordinatorHarness) -> None:
    await harness.task(round=ASYNC, aggregation=RULES)
    (refused, *_), honest = await fleet(harness)

    assert await send(harness, refused, 1e4 * HONEST) == ProblemCode.DELTA_TOO_LARGE
    for phone in honest:
        await send(harness, phone, HONEST)
    for _ in range(3):  # its assignment runs out while the next buffer is open
        await harness.coordinator.tick()
        harness.pass_time(60.0)

    (first, second) = await listed_rounds(harness.coordinator, T)
    assert (first.phase, second.phase) == ("closed", "collecting")
    assert (await harness.coordinator.quarantines.device(refused.device)).silences == 0


async def test_one_long_delta_moves_the_mean_three_scales_at_most(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", aggregation=RULES)
    phones = [await harness.enrol() for _ in range(4)]

    await send(harness, phones[0], 20 * HONEST)
    for phone in phones[1:]:
        await send(harness, phone, 1e-2 * HONEST)
    await harness.coordinator.tick()

    (closed, _) = await listed_rounds(harness.coordinator, T)
    assert closed.verdicts == {"clipped_updates": 1}
    assert np.linalg.norm(await harness.model(1)) == pytest.approx((3 * 0.2107 + 3 * 0.00233) / 4, rel=0.02)


async def test_a_delta_that_is_refused_for_its_length_is_never_held_against_its_device(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 20\ndeadline_s = 60.0", aggregation=RULES)
    phone = await harness.enrol()

    for _ in range(4):
        assert await send(harness, phone, 1e3 * HONEST) == ProblemCode.DELTA_TOO_LARGE
        harness.pass_time(61.0)
        await harness.coordinator.tick()
        await harness.coordinator.tick()

    seen = await harness.coordinator.quarantines.device(phone.device)
    assert (seen.strikes, seen.quarantines) == ([], 0)


async def test_a_round_of_longer_reports_moves_the_scale_a_little_and_the_next_round_has_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0", aggregation=RULES)
    before = await scale_of(harness)

    for _ in range(8):
        await send(harness, await harness.enrol(), 2 * HONEST)
    await harness.coordinator.tick()

    first, second = await listed_rounds(harness.coordinator, T)
    assert first.norm_scales == {"codec": before}
    assert second.norm_scales == {"codec": pytest.approx(1.25 * before)}
    await restart(harness)
    assert await scale_of(harness) == pytest.approx(1.25 * before)


async def test_a_version_whose_publication_lost_its_answer_has_moved_the_scale_once(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0", aggregation=RULES)
    before, rounds = await scale_of(harness), harness.store.rounds
    publish = rounds.publish

    async def publish_and_lose(*arguments: Any) -> RoundRecord:  # noqa: ANN401 - handed on as they came
        rounds.publish = publish  # type: ignore[method-assign]  # once is enough
        await publish(*arguments)
        raise StorageError("The connection was lost after the commit.")

    rounds.publish = publish_and_lose  # type: ignore[assignment, method-assign]  # the answer gets lost
    for _ in range(8):
        await send(harness, await harness.enrol(), 2 * HONEST)
    for _ in range(3):
        await harness.coordinator.tick()

    assert await scale_of(harness) == pytest.approx(1.25 * before)


async def test_every_replica_judges_a_round_by_the_scale_that_it_opened_with(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=SYNC, aggregation=RULES)
    other = harness.another_coordinator("other")
    await other.start()
    await harness.store.tasks.claim_norm_scales(T, b"{}")

    judges: list[Any] = [
        one.registry._states[T].open_round.batch.sum._validator  # type: ignore[union-attr]  # it is open
        for one in (harness.coordinator, other)
    ]

    assert judges[0]._scales == judges[1]._scales
    assert judges[0]._scales["codec"].scale == pytest.approx(0.21, abs=0.01)
    await other.stop()


async def test_a_task_and_a_round_of_an_earlier_release_get_their_scale_from_the_reference(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0", aggregation=RULES)
    rows: Any = harness.store.tasks._rows  # type: ignore[attr-defined]  # as the earlier release left them
    task, opened = rows.tasks[T], rows.rounds[RoundId("t-1")]
    object.__setattr__(task, "norm_scales_json", None)
    object.__setattr__(opened, "norm_scales_json", None)

    await restart(harness)
    for _ in range(8):
        await send(harness, await harness.enrol(), 2 * HONEST)
    await harness.coordinator.tick()

    stored = scales_from_json((await harness.store.tasks.get(T)).norm_scales_json)  # type: ignore[union-attr]  # it is there
    assert stored["codec"].reference == pytest.approx(0.21, abs=0.01)
    assert stored["codec"].scale == pytest.approx(1.25 * stored["codec"].reference)


async def test_codecs_of_different_length_have_scales_of_their_own(harness: CoordinatorHarness) -> None:
    rare = {"codec_by_network.metered": 'codec = "randmask"\nkeep_ratio = 0.1'}

    await harness.task(aggregation=RULES, **rare)

    scales = (await harness.coordinator.tasks.get(T)).norm_scales
    assert set(scales) == {"codec", "codec_by_network.metered"}
    assert scales["codec_by_network.metered"] > 1.5 * scales["codec"]


async def test_the_first_to_store_a_tasks_scales_decides_them(harness: CoordinatorHarness) -> None:
    await harness.task(aggregation=RULES)
    known = (await harness.store.tasks.get(T)).norm_scales_json  # type: ignore[union-attr]  # it is there

    second = await harness.store.tasks.claim_norm_scales(T, scales_to_json({"codec": NormScale.initial(9.0)}))

    assert second == known

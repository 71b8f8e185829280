"""Phones of one round use different codecs, each as its own assignment says."""

import numpy as np
import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_compression import CodecSpec, Float32Spec, parse_spec
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Assignment, CheckIn, Conditions, Refusal, RefusalReason
from keyflock_server.protocol.problems import ApiError, ProblemCode

METERED = Conditions(is_unmetered=False)
CODECS = {
    "codec": 'codec = "float32"',
    "codec_by_network.metered": 'codec = "dense"',
    "codec_by_network.slow": 'codec = "deadzone_rows"\nstep_rms = 0.5',
}


async def assigned(
    harness: CoordinatorHarness, identity: DeviceIdentity, conditions: Conditions
) -> Assignment:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, conditions=conditions)
    answer = await harness.coordinator.check_ins.check_in(identity, message)
    assert isinstance(answer, Assignment), answer
    return answer


async def send(harness: CoordinatorHarness, claims: AssignmentClaims, value: float, spec: CodecSpec) -> None:
    """Send a report; it is in the sum when this returns, though its phone may have to wait."""
    try:
        await harness.coordinator.reports.report(claims, report(constant(value), spec=spec, of=claims))
    except ApiError as refused:
        if refused.code is not ProblemCode.REPORT_PENDING:
            raise


async def test_reports_in_three_codecs_are_one_mean(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 6", **CODECS)
    for value, conditions in enumerate([Conditions(), METERED, Conditions(is_slow=True)] * 2):
        given = await assigned(harness, await harness.enrol(), conditions)
        await send(harness, harness.claims(given), float(value), parse_spec(given.codec))

    await harness.coordinator.tick()

    # (0 + 1 + .. + 5) / 6; the codecs lose nothing of a constant but float32's last bits.
    np.testing.assert_allclose(await harness.model(1), constant(-2.5), rtol=1e-5)


async def test_a_report_in_another_phones_codec_is_refused(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4", **CODECS)
    given = await assigned(harness, await harness.enrol(), METERED)

    with pytest.raises(ApiError) as refused:
        await send(harness, harness.claims(given), 1.0, Float32Spec())

    assert refused.value.code is ProblemCode.MALFORMED_DELTA
    assert given.codec["codec"] == "dense"
    assert harness.claims(given).network == "metered"


async def test_a_phone_that_changes_its_network_keeps_its_assignment_and_may_use_either_codec(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", **CODECS)
    phone = await harness.enrol()

    at_home = await assigned(harness, phone, Conditions())
    away = await assigned(harness, phone, METERED)

    assert (at_home.id, at_home.codec["codec"]) == (away.id, "float32")
    assert away.codec["codec"] == "dense"
    await send(harness, harness.claims(at_home), 1.0, parse_spec(at_home.codec))


async def test_a_phone_that_comes_back_with_a_budget_that_no_codec_keeps_to_is_refused_until_it_has_none(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", codec='codec = "topk"\nkeep_ratio = 0.5')
    phone = await harness.enrol()
    before = await assigned(harness, phone, Conditions())

    message = CheckIn(protocol=1, app_build=5, locale="en", examples=10, upload_budget_bytes=9_000)
    meanwhile = await harness.coordinator.check_ins.check_in(phone, message)
    again = await assigned(harness, phone, Conditions())

    assert isinstance(meanwhile, Refusal)
    assert meanwhile.reason is RefusalReason.NOT_ELIGIBLE
    assert meanwhile.detail == "The task's codec topk keeps to no budget of bytes."
    assert (again.id, again.codec) == (before.id, before.codec)


async def test_a_batch_that_is_summed_anew_knows_each_reports_codec(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8\nmin_flush_clients = 8", **CODECS)
    claims = []
    for conditions in [Conditions(), METERED]:
        given = await assigned(harness, await harness.enrol(), conditions)
        claims.append(harness.claims(given))
        await send(harness, claims[-1], 1.0, parse_spec(given.codec))
    batch = next(iter(harness.coordinator.registry._states.values())).open_round
    assert batch is not None
    taken = batch.batch.sum.take(lambda _count: True)
    assert taken is not None

    rest = batch.batch.sum.without(taken, [claims[0].assignment])

    assert rest.ids == (claims[1].assignment,)
    np.testing.assert_allclose(rest.sum.sum, constant(1.0) * rest.sum.weight, rtol=1e-6)


@pytest.mark.fault("D10")
async def test_long_reports_on_one_network_move_the_scale_of_its_codec_alone(
    harness: CoordinatorHarness,
) -> None:
    aggregation = {"aggregation": 'weighting = "uniform"'}
    await harness.task(round="goal = 8\nover_selection = 0.0", **CODECS, **aggregation)
    before = (await harness.coordinator.tasks.get(TaskName("t"))).norm_scales

    for number in range(8):
        given = await assigned(harness, await harness.enrol(), METERED)
        await send(harness, harness.claims(given), 0.05 + number / 1e3, parse_spec(given.codec))
    await harness.coordinator.tick()

    after = (await harness.coordinator.tasks.get(TaskName("t"))).norm_scales
    moved = {name for name, scale in after.items() if scale != before[name]}
    assert moved == {"codec_by_network.metered"}
    assert after["codec_by_network.metered"] == pytest.approx(1.25 * before["codec_by_network.metered"])

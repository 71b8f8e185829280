"""What a round says of its reports, and what becomes of devices of which it says it too often."""

from typing import Any

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_devices
from tests.unit.coordinator.personalize_task import assigned, evidence, evidence_report, open_task

from keyflock_compression import DenseSpec, Float32Spec, RandmaskSpec, encode
from keyflock_compression.container import Container
from keyflock_models.network.layout import ParamLayout
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Offer, Receipt, Refusal, RefusalReason, Report
from keyflock_server.protocol.operator.devices import DeviceQuery, QuarantineOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageError

SPEC = Float32Spec(entropy="none")
OTHER_LAYOUT = ParamLayout(names=("one",), shapes=((LAYOUT.size,),))
#: A round that lasts until its deadline, with room for everyone.
LONG = "goal = 64\nmin_flush_clients = 1\nunsafe_single_flush = true\ndeadline_s = 60.0"
DAY_S = 86_400.0


def not_finite() -> bytes:
    values = constant(1.0)
    values[2] = np.nan
    return Container(SPEC.to_wire(), LAYOUT.digest, b"", (values.tobytes(),)).to_bytes()


async def sent(
    harness: CoordinatorHarness, claims: AssignmentClaims, message: Report
) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, message)
    except ApiError as refused:
        return refused.code


async def verdicts(harness: CoordinatorHarness, claims: AssignmentClaims) -> dict[str, int]:
    await harness.coordinator.tick()
    return (await harness.coordinator.tasks.round(claims.round)).verdicts


async def misbehave(harness: CoordinatorHarness, phone: DeviceIdentity, rounds: int) -> None:
    """Send one bad report of the phone in each of a number of rounds, which are then abandoned."""
    for _ in range(rounds):
        claims = await harness.assigned(phone)
        assert (
            await sent(harness, claims, Report(delta=b"nonsense", examples=1)) == ProblemCode.MALFORMED_DELTA
        )
        await next_round(harness)


async def next_round(harness: CoordinatorHarness) -> None:
    harness.pass_time(61.0)
    await harness.coordinator.tick()
    await harness.coordinator.tick()


async def test_a_round_counts_refusals_by_their_cause(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG, codec='codec = "float32"\nentropy = "none"')
    claims = [await harness.assigned(await harness.enrol()) for _ in range(6)]
    wrong_codec = encode(constant(1.0), LAYOUT, DenseSpec(), seed=0)
    wrong_layout = encode(constant(1.0), OTHER_LAYOUT, SPEC, seed=0)

    codes = [
        await sent(harness, claims[0], Report(delta=b"nonsense", examples=1)),
        await sent(harness, claims[1], Report(delta=wrong_codec, examples=1)),
        await sent(harness, claims[2], Report(delta=wrong_layout, examples=1)),
        await sent(harness, claims[3], Report(delta=not_finite(), examples=1)),
        await sent(harness, claims[4], report(constant(1e6), spec=SPEC, of=claims[4])),
        await sent(harness, claims[5], report(constant(1.0), examples=257, spec=SPEC, of=claims[5])),
    ]

    assert codes == [
        ProblemCode.MALFORMED_DELTA,
        ProblemCode.MALFORMED_DELTA,
        ProblemCode.WRONG_LAYOUT,
        ProblemCode.NON_FINITE_DELTA,
        ProblemCode.DELTA_TOO_LARGE,
        ProblemCode.TOO_MANY_EXAMPLES,
    ]
    assert await verdicts(harness, claims[0]) == {
        "malformed": 1,
        "non_finite": 1,
        "too_long": 1,
        "too_many_examples": 1,
        "wrong_codec": 1,
        "wrong_layout": 1,
    }


async def test_a_report_drawn_from_another_seed_than_the_assigned_one_is_refused(
    harness: CoordinatorHarness,
) -> None:
    spec = RandmaskSpec(keep_ratio=0.5)
    await harness.task(round=LONG, codec='codec = "randmask"\nkeep_ratio = 0.5')
    claims = [await harness.assigned(await harness.enrol()) for _ in range(2)]

    def drawn(seed: int) -> Report:
        return Report(delta=encode(constant(1.0), LAYOUT, spec, seed=seed), examples=1)

    chosen = await sent(harness, claims[0], drawn(claims[0].seed + 1))
    assigned = await sent(harness, claims[1], drawn(claims[1].seed))

    assert chosen == ProblemCode.MALFORMED_DELTA
    assert isinstance(assigned, Receipt)
    assert await verdicts(harness, claims[0]) == {"wrong_codec": 1}


async def test_a_task_of_rows_that_the_model_has_not_is_refused(harness: CoordinatorHarness) -> None:
    rows = 'codec = "rowset"\nbits = 8\nstep = 0.001\nrow_start = 8\nrow_count = '

    with pytest.raises(ApiError, match="codec: row_start and row_count end at row 13; the vocabulary has 12"):
        await harness.coordinator.tasks.create(task_spec(codec=f"{rows}5"), audit=AUDIT)
    with pytest.raises(ApiError, match=r"codec_by_network\.slow: row_start and row_count end at row 14"):
        await harness.coordinator.tasks.create(
            task_spec(**{"codec_by_network.slow": f"{rows}6"}), audit=AUDIT
        )
    assert (await harness.coordinator.tasks.create(task_spec(codec=f"{rows}4"), audit=AUDIT)).name == "t"


async def test_a_phone_may_claim_as_many_examples_as_its_assignment_allows_and_weighs_no_more_than_the_cap(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(
        round="goal = 4",
        training="learning_rate = 0.1\nmax_examples = 500",
        aggregation="example_cap = 10\nmax_norm_ratio = 0.0",
    )
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]

    answers = [await sent(harness, one, report(constant(1.0), examples=500, of=one)) for one in claims]
    await harness.coordinator.tick()

    assert isinstance(answers[-1], Receipt)
    assert (await harness.coordinator.tasks.round(claims[0].round)).weight == 40.0


async def test_clipped_updates_and_rows_are_counted_and_bound_the_step(harness: CoordinatorHarness) -> None:
    await harness.task(
        round="goal = 4", aggregation="row_clip_norm = 1.0\nmax_norm_ratio = 0.0\nclip_norm_ratio = 0.0"
    )
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    long_row = np.zeros(LAYOUT.size, np.float32)
    long_row[:2] = [30.0, 40.0]

    for one in claims:
        await sent(harness, one, report(long_row, of=one))

    assert await verdicts(harness, claims[0]) == {"clipped_rows": 4}
    np.testing.assert_allclose((await harness.model(1))[:2], [-0.6, -0.8], rtol=1e-2)


async def test_verdicts_are_written_once_a_pass_and_added_up(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    first, second = [await harness.assigned(await harness.enrol()) for _ in range(2)]

    await sent(harness, first, Report(delta=b"nonsense", examples=1))
    before_the_pass = (await harness.coordinator.tasks.round(first.round)).verdicts
    after_the_pass = await verdicts(harness, first)
    await sent(harness, second, Report(delta=b"nonsense", examples=1))

    assert before_the_pass == {}
    assert after_the_pass == {"malformed": 1}
    assert await verdicts(harness, first) == {"malformed": 2}


async def test_two_processes_add_to_the_same_counts(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    first, second = [await harness.assigned(await harness.enrol()) for _ in range(2)]
    other = harness.another_coordinator()
    await other.start()

    await sent(harness, first, Report(delta=b"nonsense", examples=1))
    with pytest.raises(ApiError):
        await other.reports.report(second, Report(delta=b"nonsense", examples=1))
    await other.tick()

    assert await verdicts(harness, first) == {"malformed": 2}


async def test_counts_that_could_not_be_written_are_written_by_the_next_pass(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    claims = await harness.assigned(await harness.enrol())
    counted: Any = harness.store.verdicts
    write, failures = counted.add, [StorageError("disk full")]

    async def failing_once(counts: Any) -> None:  # noqa: ANN401 - as the store's
        if failures:
            raise failures.pop()
        await write(counts)

    counted.add = failing_once
    await sent(harness, claims, Report(delta=b"nonsense", examples=1))
    await harness.coordinator.tick()

    assert await verdicts(harness, claims) == {"malformed": 1}


async def test_a_device_refused_in_three_rounds_is_kept_out_and_comes_back_after_three_days(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    await misbehave(harness, phone, 3)

    refusal = await harness.check_in(phone)
    seen = await harness.coordinator.quarantines.device(phone.device)
    harness.pass_time(3 * DAY_S)
    await next_round(harness)

    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.QUARANTINED
    # The last refusal was 61 seconds before.
    assert refusal.return_window.min_s == 3 * DAY_S - 61.0
    assert refusal.return_window.max_s > refusal.return_window.min_s
    assert seen.is_quarantined
    assert seen.reason == "Refused reports in 3 of its rounds within 7 days: malformed, malformed, malformed."
    assert (seen.quarantined_by, seen.quarantines) == ("policy", 1)
    await harness.assigned(phone)
    assert not (await harness.coordinator.quarantines.device(phone.device)).is_quarantined


async def test_an_honest_device_with_one_bad_upload_goes_on_however_often_it_tries(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    claims = await harness.assigned(phone)

    for _ in range(10):
        await sent(harness, claims, Report(delta=b"nonsense", examples=1))
    answer = await sent(harness, claims, report(constant(1.0), of=claims))

    assert isinstance(answer, Receipt)
    seen = await harness.coordinator.quarantines.device(phone.device)
    assert not seen.is_quarantined
    assert [violation.verdict for violation in seen.strikes] == ["malformed"]


async def test_what_is_the_servers_fault_is_held_against_nobody(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    compute: Any = harness.coordinator._deps.compute
    submit = compute.submit

    def out_of_memory(*_arguments: object) -> None:
        raise MemoryError

    for _ in range(4):
        claims = await harness.assigned(phone)
        compute.submit = lambda then, *_work: submit(then, out_of_memory)
        with pytest.raises(MemoryError):
            await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
        compute.submit = submit
        await next_round(harness)

    assert (await harness.coordinator.quarantines.device(phone.device)).strikes == []
    assert (await harness.coordinator.tasks.round(claims.round)).verdicts == {}


async def test_late_and_repeated_and_conflicting_reports_are_held_against_nobody(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    claims = await harness.assigned(phone)

    for value in (1.0, 1.0, 2.0):
        await sent(harness, claims, report(constant(value), of=claims))
    await next_round(harness)
    late = await sent(harness, claims, report(constant(9.0), of=claims))

    assert late in {ProblemCode.ROUND_GONE, ProblemCode.REPORT_CONFLICT}
    assert (await harness.coordinator.quarantines.device(phone.device)).strikes == []


async def test_when_most_of_a_round_is_refused_it_is_not_the_devices(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    phones = [await harness.enrol() for _ in range(8)]
    claims = [await harness.assigned(phone) for phone in phones]

    for one in claims:
        await sent(harness, one, Report(delta=b"nonsense", examples=1))

    violations = [
        len((await harness.coordinator.quarantines.device(phone.device)).strikes) for phone in phones
    ]
    assert violations == [1, 1, 1, 0, 0, 0, 0, 0]


async def test_a_quarantined_devices_upload_is_refused_for_good_and_its_check_in_hears_for_how_long(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    claims = await harness.assigned(phone)
    await harness.coordinator.quarantines.quarantine(
        phone.device, QuarantineOrder(reason="A test.", days=2.0), audit=AUDIT
    )

    with pytest.raises(ApiError) as offered:
        await harness.coordinator.reports.offer(
            claims, Offer(size_bytes=1, model_version=claims.model_version)
        )
    with pytest.raises(ApiError) as uploaded:
        await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))

    assert (offered.value.status, uploaded.value.status) == (403, 403)
    assert uploaded.value.code is ProblemCode.QUARANTINED
    assert uploaded.value.document().retry is None
    refusal = await harness.check_in(phone)
    assert isinstance(refusal, Refusal)
    assert refusal.return_window.min_s == 2 * DAY_S
    assert "A test" not in uploaded.value.detail


async def test_a_report_that_was_counted_is_acknowledged_again_also_to_a_quarantined_device(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    phones = [await harness.enrol() for _ in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]
    for one in claims:
        await sent(harness, one, report(constant(1.0), of=one))
    await harness.coordinator.quarantines.quarantine(
        phones[0].device, QuarantineOrder(reason="A test."), audit=AUDIT
    )

    again = await sent(harness, claims[0], report(constant(1.0), of=claims[0]))

    assert isinstance(again, Receipt)
    assert again.duplicate


async def test_another_process_learns_of_a_quarantine_at_its_next_pass(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    claims = await harness.assigned(phone)
    other = harness.another_coordinator("b")
    await other.start()
    await harness.coordinator.quarantines.quarantine(
        phone.device, QuarantineOrder(reason="A test."), audit=AUDIT
    )

    await other.tick()

    with pytest.raises(ApiError) as refused:
        await other.reports.report(claims, report(constant(1.0), of=claims))
    assert refused.value.code is ProblemCode.QUARANTINED


async def test_a_released_device_begins_anew(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    await misbehave(harness, phone, 3)

    released = await harness.coordinator.quarantines.release(phone.device, audit=AUDIT)
    await misbehave(harness, phone, 1)

    assert not released.is_quarantined
    assert (released.strikes, released.quarantines, released.reason) == ([], 0, "")
    assert not (await harness.coordinator.quarantines.device(phone.device)).is_quarantined


async def test_forget_me_takes_what_was_held_against_a_device_with_it(harness: CoordinatorHarness) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    await misbehave(harness, phone, 3)

    await harness.forget(phone)

    assert await harness.store.devices.get(phone.device) is None
    assert await harness.store.devices.quarantined(harness.now) == {}
    assert (await listed_devices(harness.coordinator, POPULATION)) == []


async def test_a_list_of_devices_may_have_only_those_that_are_out(harness: CoordinatorHarness) -> None:
    phones = [await harness.enrol() for _ in range(3)]
    await harness.coordinator.quarantines.quarantine(
        phones[1].device, QuarantineOrder(reason="A test."), audit=AUDIT
    )

    everybody = await listed_devices(harness.coordinator, POPULATION)
    kept_out = await harness.coordinator.lists.devices(POPULATION, None, 9, DeviceQuery(quarantined=True))

    assert sorted(one.id for one in everybody) == sorted(phone.device for phone in phones)
    assert [one.id for one in kept_out.items] == [phones[1].device]
    assert kept_out.next is None


async def test_a_device_that_is_not_there_cannot_be_quarantined(harness: CoordinatorHarness) -> None:
    nobody = DeviceId("nobody")

    for call in (
        harness.coordinator.quarantines.device(nobody),
        harness.coordinator.quarantines.quarantine(nobody, QuarantineOrder(reason="A test."), audit=AUDIT),
        harness.coordinator.quarantines.release(nobody, audit=AUDIT),
    ):
        with pytest.raises(ApiError) as refused:
            await call
        assert refused.value.code is ProblemCode.NOT_FOUND


async def test_a_violation_is_not_lost_to_another_process_that_records_one_at_the_same_time(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=LONG)
    phone = await harness.enrol()
    await misbehave(harness, phone, 1)
    claims = await harness.assigned(phone)
    devices: Any = harness.store.devices
    get, calls = devices.get, [0]

    async def get_then_changed(device: DeviceId) -> Any:  # noqa: ANN401 - as the table's
        row = await get(device)
        calls[0] += 1
        if calls[0] == 1:  # somebody else writes between the reading and the writing
            await devices.set_quarantine(device, row.standing_json, None, None, harness.now)
            return row
        return row

    devices.get = get_then_changed
    await sent(harness, claims, Report(delta=b"nonsense", examples=1))
    devices.get = get

    seen = await harness.coordinator.quarantines.device(phone.device)
    assert [violation.round for violation in seen.strikes] == [claims.round]


async def test_a_personalize_round_counts_evidence_beyond_its_bounds(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    (claims,) = await assigned(harness, 1)
    vector = evidence()
    vector[0] = 3e38

    code = await sent(harness, claims, evidence_report(vector))

    assert code == ProblemCode.DELTA_TOO_LARGE
    assert await verdicts(harness, claims) == {"evidence_bound": 1}

"""What docs/protocol.md states of check-ins, repetitions and releases, asked of a coordinator."""

import hashlib
import json

import msgspec
import pytest
from tests.unit.coordinator import personalize_task
from tests.unit.coordinator.harness import (
    LAYOUT,
    POPULATION,
    CoordinatorHarness,
    constant,
    report,
)
from tests.wire.protocol.test_protocol_vectors import MEANINGS

from keyflock_compression import parse_spec
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    CheckIn,
    Conditions,
    Failure,
    FailureCause,
    Refusal,
    RefusalReason,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.selection import assignment_seed, round_id

pytestmark = pytest.mark.fault("F15")

CODECS = {"codec": 'codec = "float32"', "codec_by_network.metered": 'codec = "dense"'}


async def check_in(
    harness: CoordinatorHarness,
    phone: DeviceIdentity,
    *,
    is_unmetered: bool = True,
    can: Capabilities | None = None,
) -> Assignment | Refusal:
    message = CheckIn(
        protocol=1,
        app_build=5,
        locale="en-US",
        examples=10,
        conditions=Conditions(is_unmetered=is_unmetered),
        capabilities=can or Capabilities(),
    )
    return await harness.coordinator.check_ins.check_in(phone, message)


async def assigned(
    harness: CoordinatorHarness, phone: DeviceIdentity, *, is_unmetered: bool = True
) -> Assignment:
    answer = await check_in(harness, phone, is_unmetered=is_unmetered)
    assert isinstance(answer, Assignment), answer
    return answer


async def send(harness: CoordinatorHarness, token_of: Assignment, codec_of: Assignment) -> ProblemCode:
    """Send a delta in the codec of one answer, with the token of another."""
    delta = report(constant(1.0), spec=parse_spec(codec_of.codec), of=harness.claims(token_of))
    with pytest.raises(ApiError) as waiting:
        await harness.coordinator.reports.report(harness.claims(token_of), delta)
    return waiting.value.code


async def test_a_repeated_check_in_may_bring_another_codec_and_token_and_nothing_else(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", **CODECS)
    phone = await harness.enrol()

    at_home, away = [await assigned(harness, phone, is_unmetered=one) for one in (True, False)]

    fields = at_home.__struct_fields__
    differ = [name for name in fields if getattr(at_home, name) != getattr(away, name)]
    assert differ == ["token", "codec"]
    assert (at_home.codec["codec"], away.codec["codec"]) == ("float32", "dense")


@pytest.mark.parametrize("is_first", [True, False])
async def test_either_codec_counts_with_its_own_token_and_not_with_the_others(
    harness: CoordinatorHarness, is_first: bool
) -> None:
    await harness.task(round="goal = 4", **CODECS)
    phone = await harness.enrol()
    answers = [await assigned(harness, phone, is_unmetered=one) for one in (True, False)]
    mine, other = answers if is_first else reversed(answers)

    mixed = await send(harness, token_of=mine, codec_of=other)
    right = await send(harness, token_of=mine, codec_of=mine)

    assert mixed is ProblemCode.MALFORMED_DELTA
    assert right is ProblemCode.REPORT_PENDING  # it is in the sum, and waits for others


async def test_what_a_build_can_do_is_what_its_last_check_in_says(harness: CoordinatorHarness) -> None:
    """Neither an enrolment nor an earlier check-in is remembered, and what is left out has its default."""
    await harness.task(round="goal = 4\ndeadline_s = 600000.0", codec='codec = "rotated"\nbits = 1')
    phone = await harness.enrol()

    without = await check_in(harness, phone)
    harness.pass_time(100_000)
    named = await check_in(harness, phone, can=Capabilities(codecs=("rotated",)))
    again_without = await check_in(harness, phone)

    assert isinstance(without, Refusal)
    assert without.reason is RefusalReason.NOT_ELIGIBLE
    assert isinstance(named, Assignment)
    assert isinstance(again_without, Refusal)


async def test_a_phone_that_gave_its_round_back_is_told_too_soon(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\ndeadline_s = 600000.0")
    phone = await harness.enrol()
    claims = await harness.assigned(phone)
    await harness.coordinator.reports.failure(claims, Failure(cause=FailureCause.NOT_ELIGIBLE))

    at_once = await check_in(harness, phone)
    harness.pass_time(200_000)
    later = await check_in(harness, phone)

    assert isinstance(at_once, Refusal)
    assert isinstance(later, Refusal)
    assert (at_once.reason, later.reason) == (RefusalReason.TOO_SOON, RefusalReason.TOO_SOON)


async def test_a_release_names_the_shapes_whose_digest_every_assignment_has(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    release = await harness.coordinator.models.release(POPULATION)
    work = await assigned(harness, await harness.enrol())

    names, shapes = json.loads(release.tensors)

    assert hashlib.sha256(release.tensors.encode()).digest()[:16] == release.layout == work.layout
    assert [tuple(shape) for shape in shapes] == list(LAYOUT.shapes)
    assert tuple(names) == LAYOUT.names


async def test_the_layout_of_evidence_is_the_pages_and_not_the_models(harness: CoordinatorHarness) -> None:
    await personalize_task.open_task(harness)

    work = await personalize_task.check_in(harness, await harness.enrol())

    assert isinstance(work, Assignment)
    assert work.layout == hashlib.sha256(EVIDENCE_LAYOUT.text.encode()).digest()[:16]
    assert work.codec == {"codec": "float32", "rounding": "nearest", "entropy": "none", "zstd_level": 3}


async def test_every_assignments_codec_names_what_every_codec_has(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4", codec="step_rms = 2")

    work = await assigned(harness, await harness.enrol())

    assert list(work.codec) == ["codec", "rounding", "step_rms", "entropy", "zstd_level"]
    assert work.codec == harness.claims(work).codec
    assert type(work.codec["step_rms"]) is int


def test_a_seed_is_exact_in_a_double_whatever_the_round_and_the_device() -> None:
    seeds = [assignment_seed(b"k", round_id("t", n), f"device-{n}") for n in range(2_000)]  # type: ignore[arg-type]  # plain names

    assert max(seeds) < 2**32
    assert max(seeds) > 2**31
    assert len(set(seeds)) > 1_990
    for seed, is_taken in ((0, True), (2**53 - 1, True), (2**53, False), (-1, False)):
        fields = msgspec.to_builtins(MEANINGS["assignment"][1]) | {"seed": seed}
        if is_taken:
            assert msgspec.convert(fields, Assignment).seed == seed
        else:
            with pytest.raises(msgspec.ValidationError, match="seed"):
                msgspec.convert(fields, Assignment)

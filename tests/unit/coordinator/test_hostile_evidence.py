"""Evidence that no honest phone sends: it is refused, and moves no prior."""

import contextlib

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant
from tests.unit.coordinator.personalize_task import (
    SPEC,
    assigned,
    evidence,
    evidence_report,
    open_task,
    report_all,
)

from keyflock_compression import Float32Spec, encode
from keyflock_compression.container import Container
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ApiError, ProblemCode


def place(name: str, value: float) -> NDArray[np.float32]:
    vector = evidence()
    EVIDENCE_LAYOUT.unflatten(vector)[name].flat[0] = value
    return vector


def not_a_number() -> bytes:
    """Return a container that no encoder would make: intact, with a value that is not finite."""
    values = place("gain", np.nan).astype("<f4").tobytes()
    return Container(SPEC.to_wire(), EVIDENCE_LAYOUT.digest, b"", (values,)).to_bytes()


@pytest.mark.parametrize(
    ("delta", "code"),
    [
        (encode(constant(1.0), LAYOUT, SPEC, seed=0), ProblemCode.WRONG_LAYOUT),
        (
            encode(evidence(), EVIDENCE_LAYOUT, Float32Spec(), seed=0),
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
    harness: CoordinatorHarness, delta: bytes, code: ProblemCode
) -> None:
    await open_task(harness)
    claims = await assigned(harness, 5)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(claims[0], Report(delta=delta, examples=1))
    await report_all(harness, claims[1:], evidence())

    assert refused.value.code is code
    release = await harness.coordinator.downlink.release(POPULATION)
    assert release.personalisation is not None
    assert release.personalisation.prior.gain_mean == 0.25


async def test_a_claim_of_many_examples_weighs_no_more(harness: CoordinatorHarness) -> None:
    await open_task(harness)
    claims = await assigned(harness, 4)
    boast = Report(delta=evidence_report(evidence(gain=1.0)).delta, examples=1_000_000)
    with contextlib.suppress(ApiError):
        await harness.coordinator.reports.report(claims[0], boast)

    for one in claims[1:]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, evidence_report(evidence(gain=0.0), of=one))
    await harness.coordinator.tick()

    closed = await harness.coordinator.tasks.round(RoundId("p-1"))
    assert closed.figures is not None
    assert closed.figures["gain"] == 0.25

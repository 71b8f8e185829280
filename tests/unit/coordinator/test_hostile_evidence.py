"""Evidence that no honest phone sends: it is refused, and moves no prior."""

import contextlib

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.personalize_task import SPEC, assigned, evidence, open_task, report_all, told
from tests.unit.coordinator.town import LAYOUT, POPULATION, Town, constant

from keyflock_compression import CodecSpec, encode
from keyflock_compression.container import Container
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ProblemCode, Refused


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
            await town.coordinator.report(one, told(evidence(gain=0.0), of=one))
    await town.coordinator.tick()

    closed = await town.coordinator.round(RoundId("p-1"))
    assert closed.figures is not None
    assert closed.figures["gain"] == 0.25

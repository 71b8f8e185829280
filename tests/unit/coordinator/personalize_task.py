"""A personalize task: its round, its phones, and the evidence that they report."""

import contextlib

import numpy as np
from numpy.typing import NDArray
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, device_factor

from keyflock_compression import Float32Spec, encode
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.messages import Assignment, Capabilities, CheckIn, Refusal, Report
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.task_validation import parse_task

SPEC = Float32Spec(entropy="none")
ABLE = Capabilities(tasks=("train", "personalize"))
TASK = f'[task]\nname = "p"\npopulation = "{POPULATION}"\nkind = "personalize"\n'
HEADS = "[[personalising.heads]]\nrank = 4\n[[personalising.heads]]\nrank = 16\n"


def evidence(gain: float = 0.25, late_gain: float = 0.25) -> NDArray[np.float32]:
    """Return evidence as an honest phone might send it; all numbers are exact in float32."""
    vector = np.zeros(EVIDENCE_LAYOUT.size, np.float32)
    parts = EVIDENCE_LAYOUT.unflatten(vector)
    sums = {"phones": 1.0, "words": 512.0, "gain": gain, "gain_squared": gain * gain, "late_gain": late_gain}
    for name, value in (sums | {"helped": 1.0, "stored_bytes": 4096.0, "seconds": 2.0}).items():
        parts[name][0] = value
    parts[RESPONSIBILITIES][:] = [0.25, 0.0, 0.25, 0.0]
    return vector


def evidence_report(vector: NDArray[np.float32], of: AssignmentClaims | None = None) -> Report:
    """Return a report of this evidence; with ``of``, made distinct as this device would send it."""
    if of is not None:
        vector = vector.copy()
        EVIDENCE_LAYOUT.unflatten(vector)["seconds"][:] *= device_factor(of)
    return Report(delta=encode(vector, EVIDENCE_LAYOUT, SPEC, seed=0), examples=1)


async def open_task(harness: CoordinatorHarness, rounds: str = "goal = 4", heads: str = HEADS) -> None:
    await harness.coordinator.tasks.create(parse_task(f"{TASK}[round]\n{rounds}\n{heads}"), audit=AUDIT)
    await harness.coordinator.tick()


async def check_in(
    harness: CoordinatorHarness, who: DeviceIdentity, can: Capabilities = ABLE
) -> Assignment | Refusal:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=can)
    return await harness.coordinator.check_ins.check_in(who, message)


async def assigned(harness: CoordinatorHarness, count: int) -> list[AssignmentClaims]:
    claims = []
    for _ in range(count):
        answer = await check_in(harness, await harness.enrol())
        assert isinstance(answer, Assignment), answer
        claims.append(harness.claims(answer))
    return claims


async def report_all(
    harness: CoordinatorHarness, claims: list[AssignmentClaims], vector: NDArray[np.float32]
) -> None:
    for one in claims:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, evidence_report(vector, of=one))
    for one in claims:
        await harness.coordinator.reports.report(one, evidence_report(vector, of=one))
    await harness.coordinator.tick()

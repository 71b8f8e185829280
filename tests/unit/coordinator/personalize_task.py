"""A personalize task in the town: its round, its phones, and what they say."""

import contextlib

import numpy as np
from numpy.typing import NDArray
from tests.unit.coordinator.town import POPULATION, Town, shorter

from keyflock_compression import CodecSpec, encode
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.messages import Assignment, Capabilities, CheckIn, Refusal, Report
from keyflock_server.protocol.problems import Refused
from keyflock_server.rounds.task import parse_task

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


def told(vector: NDArray[np.float32], of: AssignmentClaims | None = None) -> Report:
    """A report of this evidence; with ``of``, as this device would send it: no two take equally long."""
    if of is not None:
        vector = vector.copy()
        EVIDENCE_LAYOUT.unflatten(vector)["seconds"][:] *= shorter(of)
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
            await town.coordinator.report(one, told(vector, of=one))
    for one in claims:
        await town.coordinator.report(one, told(vector, of=one))
    await town.coordinator.tick()

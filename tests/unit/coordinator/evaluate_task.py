"""An evaluate task: a population with two versions, its phones, and the paired scores that they report."""

import contextlib

import numpy as np
from numpy.typing import NDArray
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, device_factor, report
from tests.unit.coordinator.releasing import set_policy

from keyflock_compression import Float32Spec, encode
from keyflock_models.evaluation.paired_scores import PairedScore, PairedScores, encode_scores, paired_layout
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.messages import Assignment, Capabilities, CheckIn, Refusal, Report
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.task_validation import parse_task

SPEC = Float32Spec(entropy="none")
METRICS = ("recall_at_3",)
LAYOUT = paired_layout(METRICS)
EVALUATOR = Capabilities(tasks=("train", "personalize", "evaluate"))
TASK = f'[task]\nname = "e"\npopulation = "{POPULATION}"\nkind = "evaluate"\n'
EVALUATING = 'metrics = ["recall_at_3"]'


def scores(candidate: float = 0.25, baseline: float = 0.5, words: int = 64) -> NDArray[np.float32]:
    """Return paired scores as an honest phone might send them; all numbers are exact in float32."""
    measured = PairedScores(
        words=words, oov_rate=0.125, scores={"recall_at_3": PairedScore(candidate, baseline)}
    )
    return encode_scores(measured, METRICS)


def scores_report(vector: NDArray[np.float32], of: AssignmentClaims | None = None) -> Report:
    """Return a report of these scores; with ``of``, made distinct as this device would send it."""
    if of is not None:
        vector = vector.copy()
        LAYOUT.unflatten(vector)["oov_rate"][:] *= device_factor(of)
    return Report(delta=encode(vector, LAYOUT, SPEC, seed=0), examples=1)


async def publish_version(harness: CoordinatorHarness, value: float = 1.0) -> list[DeviceIdentity]:
    """Make one more version of the population, by a task of one round; return the devices that trained.

    Keyboards go on serving the version that they serve.
    """
    await set_policy(harness, PromotionPolicy(promotion=Promotion.MANUAL))
    harness.pass_time(1.0)
    spec = await harness.task("t", round="goal = 4\nmax_rounds = 1\nover_selection = 0.0")
    devices = [await harness.enrol() for _ in range(4)]
    claims = [await harness.assigned(device) for device in devices]
    for one in claims + claims:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(value), of=one))
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    assert (await harness.coordinator.tasks.get(spec.name)).state == "finished"
    return devices


async def open_evaluation(
    harness: CoordinatorHarness, rounds: str = "goal = 4", evaluating: str = EVALUATING
) -> None:
    spec = parse_task(f"{TASK}[round]\n{rounds}\n[evaluating]\n{evaluating}\n")
    await harness.coordinator.tasks.create(spec, audit=AUDIT)
    await harness.coordinator.tick()


async def check_in(
    harness: CoordinatorHarness, who: DeviceIdentity, can: Capabilities = EVALUATOR
) -> Assignment | Refusal:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=can)
    return await harness.coordinator.check_ins.check_in(who, message)


async def assigned(harness: CoordinatorHarness, count: int) -> list[AssignmentClaims]:
    """Return the work of so many devices that are new."""
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
            await harness.coordinator.reports.report(one, scores_report(vector, of=one))
    for one in claims:
        await harness.coordinator.reports.report(one, scores_report(vector, of=one))
    await harness.coordinator.tick()

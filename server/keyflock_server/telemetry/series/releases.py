"""Declared series about releases: what keyboards serve."""

from typing import Final

from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.release_state import ReleaseAction, ReleasePhase
from keyflock_server.telemetry.series.declaration import POPULATION, closed, counter, gauge

RELEASE_STEPS: Final = counter(
    "keyflock_release_steps_total",
    "Steps of releases that this process took, by what they did.",
    closed("action", ReleaseAction),
)
RELEASED_VERSION: Final = gauge(
    "keyflock_released_version", "The version that is served to everybody, by population.", POPULATION
)
RELEASE_STAGE: Final = gauge(
    "keyflock_release_stage_ratio",
    "The share of the devices that is served the candidate, by population; 0 where there is none.",
    POPULATION,
)
RELEASE_PHASE_AGE: Final = gauge(
    "keyflock_release_phase_age_seconds",
    "Time since the last step of a population's release, by the phase that it is in since then.",
    POPULATION,
    closed("phase", ReleasePhase),
)

RELEASE_STAGE_AGE: Final = gauge(
    "keyflock_release_stage_age_seconds",
    "Time since a population's candidate came to its stage; shown while there is one.",
    POPULATION,
)
GATE_VERDICT: Final = gauge(
    "keyflock_release_gate_verdict",
    "1 for what the gate finds of a population's candidate, 0 for the other verdicts; while there is one.",
    POPULATION,
    closed("verdict", GateVerdict),
)

DECLARED: Final = (
    RELEASE_STEPS,
    RELEASED_VERSION,
    RELEASE_STAGE,
    RELEASE_PHASE_AGE,
    RELEASE_STAGE_AGE,
    GATE_VERDICT,
)

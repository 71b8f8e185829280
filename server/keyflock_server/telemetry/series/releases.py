"""Declared series about releases: what keyboards serve."""

from typing import Final

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

DECLARED: Final = (RELEASE_STEPS, RELEASED_VERSION, RELEASE_STAGE, RELEASE_PHASE_AGE)

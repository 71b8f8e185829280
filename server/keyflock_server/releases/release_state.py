"""A population's release as a table: (phase, event) → phase. No clock, no store.

    IDLE, PROMOTED, ROLLED_BACK ──Started──▸ STAGED ──Promoted────────────────▸ PROMOTED
                                             │ │ ▴ ▴
                            GateInconclusive │ │ │ └──Widened── HELD
                                             ▾ │ └──Widened── INCONCLUSIVE
                                  INCONCLUSIVE ├──GateFailed, OperatorHeld────▸ HELD
                                               └──ReleaseRolledBack───────────▸ ROLLED_BACK

``version`` is served to everybody who is not in the candidate's stage, the candidate to the devices whose
bucket is below the stage. Promoting makes the candidate the version for everybody. Rolling back takes the
candidate away or, where there is none, puts an earlier version into the version's place. A candidate that is
INCONCLUSIVE goes on by itself once enough phones have evaluated it; one that is HELD waits for an operator.
An operator may start another candidate, promote and roll back in every phase, and in every phase a rollback
of training may withdraw what is served. The whole table is ``TRANSITIONS``; an event without a row in it
changes nothing.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, assert_never

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.promotion_policy import EVERYBODY


class ReleasePhase(StrEnum):
    """The phase of a population's release."""

    #: One version is served to everybody: the first one, or one that a rollback of training has left.
    IDLE = "idle"
    #: A candidate is served to its stage, which may widen.
    STAGED = "staged"
    #: The stage does not widen until more phones have evaluated the candidate.
    INCONCLUSIVE = "inconclusive"
    #: The stage does not widen until an operator decides.
    HELD = "held"
    #: The version that was promoted last is served to everybody.
    PROMOTED = "promoted"
    #: A candidate or a version was taken back, and what was served before is served to everybody.
    ROLLED_BACK = "rolled_back"


class ReleaseAction(StrEnum):
    """What a row of a population's release history did."""

    #: The population was created, or brought to this schema, with one version released.
    CREATED = "created"
    #: A candidate began, reaches more devices than before, or goes on.
    STAGED = "staged"
    #: The gate could not decide, and the candidate stays where it is.
    INCONCLUSIVE = "inconclusive"
    #: An operator stopped the candidate where it is, or it failed the gate.
    HELD = "held"
    #: A version is served to everybody.
    PROMOTED = "promoted"
    #: A candidate was taken back, or an earlier version is served again.
    ROLLED_BACK = "rolled_back"
    #: A rollback of training withdrew what was served, and an earlier version is served instead.
    WITHDRAWN = "withdrawn"


#: The phase that a release is in after a row with this action.
PHASE_AFTER: Final = MappingProxyType(
    {
        ReleaseAction.CREATED: ReleasePhase.IDLE,
        ReleaseAction.STAGED: ReleasePhase.STAGED,
        ReleaseAction.INCONCLUSIVE: ReleasePhase.INCONCLUSIVE,
        ReleaseAction.HELD: ReleasePhase.HELD,
        ReleaseAction.PROMOTED: ReleasePhase.PROMOTED,
        ReleaseAction.ROLLED_BACK: ReleasePhase.ROLLED_BACK,
        ReleaseAction.WITHDRAWN: ReleasePhase.IDLE,
    }
)
#: Phases in which there is a candidate.
CANDIDATE_PHASES: Final = frozenset({ReleasePhase.STAGED, ReleasePhase.INCONCLUSIVE, ReleasePhase.HELD})


@dataclass(frozen=True, slots=True)
class Started:
    """A candidate is served to a stage of so many percent, perhaps none; one that was there is superseded."""

    candidate: ModelVersion
    percent: int


@dataclass(frozen=True, slots=True)
class Widened:
    """The candidate is served to a wider stage, or goes on at the stage that it has."""

    percent: int


@dataclass(frozen=True, slots=True)
class GateInconclusive:
    """The gate cannot decide: the stage stays as it is."""


@dataclass(frozen=True, slots=True)
class GateFailed:
    """The gate found the candidate worse, and the policy leaves the rest to an operator."""


@dataclass(frozen=True, slots=True)
class OperatorHeld:
    """An operator stops the candidate at its stage."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """This version is served to everybody."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class ReleaseRolledBack:
    """This version is served to everybody: the present one without its candidate, or an earlier one."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A rollback of training withdrew what was served: this version is served to everybody."""

    version: ModelVersion


ReleaseEvent = (
    Started
    | Widened
    | GateInconclusive
    | GateFailed
    | OperatorHeld
    | Promoted
    | ReleaseRolledBack
    | Withdrawn
)

#: The action of the row that an event appends.
ACTION_OF: Final = MappingProxyType(
    {
        Started: ReleaseAction.STAGED,
        Widened: ReleaseAction.STAGED,
        GateInconclusive: ReleaseAction.INCONCLUSIVE,
        GateFailed: ReleaseAction.HELD,
        OperatorHeld: ReleaseAction.HELD,
        Promoted: ReleaseAction.PROMOTED,
        ReleaseRolledBack: ReleaseAction.ROLLED_BACK,
        Withdrawn: ReleaseAction.WITHDRAWN,
    }
)

#: All legal transitions of a release.
TRANSITIONS: Final = MappingProxyType(
    {
        **{(phase, Started): ReleasePhase.STAGED for phase in ReleasePhase},
        **{(phase, Promoted): ReleasePhase.PROMOTED for phase in ReleasePhase},
        **{(phase, ReleaseRolledBack): ReleasePhase.ROLLED_BACK for phase in ReleasePhase},
        **{(phase, Withdrawn): ReleasePhase.IDLE for phase in ReleasePhase},
        **{(phase, Widened): ReleasePhase.STAGED for phase in CANDIDATE_PHASES},
        **{(phase, OperatorHeld): ReleasePhase.HELD for phase in CANDIDATE_PHASES},
        (ReleasePhase.STAGED, GateFailed): ReleasePhase.HELD,
        (ReleasePhase.INCONCLUSIVE, GateFailed): ReleasePhase.HELD,
        (ReleasePhase.STAGED, GateInconclusive): ReleasePhase.INCONCLUSIVE,
    }
)


class IllegalReleaseEvent(Exception):
    """Fault of the caller: the event is not legal for this release; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseState:
    """What a population's keyboards are served."""

    phase: ReleasePhase
    #: Served to everybody who is not in the candidate's stage.
    version: ModelVersion
    #: None where there is none.
    candidate: ModelVersion | None = None
    #: How many percent of the devices are in the candidate's stage; ``EVERYBODY`` without a candidate.
    percent: int = EVERYBODY

    @property
    def served(self) -> frozenset[ModelVersion]:
        """Return the versions that keyboards may be served; a stage of 0 % serves its candidate to none."""
        if self.candidate is None or self.percent == 0:
            return frozenset({self.version})
        return frozenset({self.version, self.candidate})


def first_release(version: ModelVersion) -> ReleaseState:
    """Return the release of a population that serves one version to everybody."""
    return ReleaseState(phase=ReleasePhase.IDLE, version=version)


def advance_release(current: ReleaseState, event: ReleaseEvent) -> ReleaseState:
    """Return the release after ``event``.

    Guarantees:
        A candidate's stage only widens: no event leaves the same candidate with a narrower stage.
    Raises:
        IllegalReleaseEvent: the table has no such row, or the event's numbers do not fit the release.
    """
    phase = TRANSITIONS.get((current.phase, type(event)))
    if phase is None:
        raise IllegalReleaseEvent(
            f"{type(event).__name__} does not happen to a release that is {current.phase}"
        )
    match event:
        case Started(candidate, percent):
            if candidate == current.version:
                raise IllegalReleaseEvent(f"version {candidate} is served to everybody already")
            if candidate == current.candidate and percent < current.percent:
                raise IllegalReleaseEvent(_NARROWER.format(percent, current.percent))
            _check_percent(percent)
            return replace(current, phase=phase, candidate=candidate, percent=percent)
        case Widened(percent):
            if percent < current.percent:
                raise IllegalReleaseEvent(_NARROWER.format(percent, current.percent))
            _check_percent(percent)
            return replace(current, phase=phase, percent=percent)
        case Promoted(version) | ReleaseRolledBack(version) | Withdrawn(version):
            return ReleaseState(phase=phase, version=version)
        case GateInconclusive() | GateFailed() | OperatorHeld():
            return replace(current, phase=phase)
        case _:
            assert_never(event)


_NARROWER: Final = (
    "a stage of {} % is narrower than the candidate's {} %: stages only widen, or are rolled back"
)


def _check_percent(percent: int) -> None:
    if not 0 <= percent < EVERYBODY:
        raise IllegalReleaseEvent(f"a stage has 0 to 99 % of the devices, not {percent}: promote it instead")

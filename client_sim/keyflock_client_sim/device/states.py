"""The states of a device and the table of what leads from one to another.

The table is the contract: ``machine.Device`` takes an event only where the table has it, and goes only where
the table says. Two questions decide whether an event is legal: does the table know it in this state, and may
it follow on what the device asked for last (``ANSWERS``)?
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from keyflock_client_sim.device.effects import Effect, Patch, Send, Store, Train, Wait
from keyflock_client_sim.device.events import (
    Answered,
    CallLost,
    Event,
    Interrupted,
    PatchFailed,
    Stored,
    Trained,
    TrainingFailed,
    Woke,
)


class State(StrEnum):
    """Where a device is."""

    #: It has no identity yet, or has lost it.
    UNENROLLED = "unenrolled"
    #: Nothing to do until its return window.
    RESTING = "resting"
    #: It renews its token, and then goes on with what it was about to do.
    REFRESHING = "refreshing"
    CHECKING_IN = "checking_in"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    OFFERING = "offering"
    UPLOADING = "uploading"
    #: It gives the assignment back, with a cause.
    RETURNING = "returning"


def _to(*states: State) -> frozenset[State]:
    return frozenset(states)


_U, _R, _F, _C, _D, _T, _O, _P, _B = State  # in the order above, so that the table fits on a page

#: From a state, by an event, to one of these states.
TRANSITIONS: Final[Mapping[State, Mapping[type[Event], frozenset[State]]]] = MappingProxyType(
    {
        _U: {Woke: _to(_U), Answered: _to(_U, _R), CallLost: _to(_U), Interrupted: _to(_U)},
        _R: {Woke: _to(_C, _F)},
        _F: {
            Woke: _to(_F),
            Answered: _to(_F, _U, _C, _D, _O, _P, _B),
            CallLost: _to(_F),
            Interrupted: _to(_F),
        },
        _C: {
            Woke: _to(_C),
            Answered: _to(_C, _D, _T, _B, _R, _F, _U),
            CallLost: _to(_C),
            Interrupted: _to(_R),
        },
        _D: {
            Woke: _to(_D, _R),
            Answered: _to(_D, _B, _R, _F, _U),
            CallLost: _to(_D, _R),
            Stored: _to(_T),
            PatchFailed: _to(_D),
            Interrupted: _to(_B, _R),
        },
        _T: {Trained: _to(_O, _B, _R), TrainingFailed: _to(_B, _R), Interrupted: _to(_B, _R)},
        _O: {
            Woke: _to(_O, _R),
            Answered: _to(_O, _P, _R, _F, _U),
            CallLost: _to(_O, _R),
            Interrupted: _to(_O, _R),
        },
        _P: {
            Woke: _to(_P, _R),
            Answered: _to(_P, _R, _F, _U),
            CallLost: _to(_P, _R),
            Interrupted: _to(_P, _R),
        },
        _B: {
            Woke: _to(_B, _R),
            Answered: _to(_B, _R, _F, _U),
            CallLost: _to(_B, _R),
            Interrupted: _to(_B, _R),
        },
    }
)

#: What may be told to a device that asked for this.
ANSWERS: Final[Mapping[type[Effect], frozenset[type[Event]]]] = MappingProxyType(
    {
        Wait: frozenset({Woke, Interrupted}),
        Send: frozenset({Answered, CallLost, Interrupted}),
        Store: frozenset({Stored, Interrupted}),
        Patch: frozenset({Stored, PatchFailed, Interrupted}),
        Train: frozenset({Trained, TrainingFailed, Interrupted}),
    }
)


class IllegalEvent(RuntimeError):
    """The driver told a device something that it had not asked for. Nothing was changed."""


def is_legal(state: State, asked_for: Effect, event: Event) -> bool:
    """Whether a device in ``state`` that ``asked_for`` this may be told ``event``."""
    return type(event) in ANSWERS[type(asked_for)] and type(event) in TRANSITIONS[state]

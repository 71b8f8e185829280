"""This module holds the states of a device and the table of its transitions.

The table is the contract: ``machine.Device`` takes an event only where the table has it, and goes only where
the table says. Two questions decide whether an event is legal: does the table know it in this state, and may
it answer the effect that the device asked for last (``ALLOWED_EVENTS``)?
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import (
    Answered,
    CallLost,
    InputEvent,
    Interrupted,
    ModelStored,
    PatchFailed,
    Trained,
    TrainingFailed,
    Woke,
)


class DeviceState(StrEnum):
    """The state of a device."""

    #: The device has no identity yet, or has lost it.
    UNENROLLED = "unenrolled"
    #: The device has nothing to do until its return window.
    RESTING = "resting"
    #: The device refreshes its token, and then goes on with the deferred call.
    REFRESHING = "refreshing"
    CHECKING_IN = "checking_in"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    OFFERING = "offering"
    UPLOADING = "uploading"
    #: The device returns the assignment, with a cause.
    RETURNING = "returning"


def _to(*states: DeviceState) -> frozenset[DeviceState]:
    return frozenset(states)


(
    UNENROLLED,
    RESTING,
    REFRESHING,
    CHECKING_IN,
    DOWNLOADING,
    TRAINING,
    OFFERING,
    UPLOADING,
    RETURNING,
) = DeviceState

#: The states that an event may lead to, by state and event.
TRANSITIONS: Final[Mapping[DeviceState, Mapping[type[InputEvent], frozenset[DeviceState]]]] = (
    MappingProxyType(
        {
            UNENROLLED: {
                Woke: _to(UNENROLLED),
                Answered: _to(UNENROLLED, RESTING),
                CallLost: _to(UNENROLLED),
                Interrupted: _to(UNENROLLED),
            },
            RESTING: {Woke: _to(CHECKING_IN, REFRESHING)},
            REFRESHING: {
                Woke: _to(REFRESHING),
                Answered: _to(
                    REFRESHING, UNENROLLED, CHECKING_IN, DOWNLOADING, OFFERING, UPLOADING, RETURNING
                ),
                CallLost: _to(REFRESHING),
                Interrupted: _to(REFRESHING),
            },
            CHECKING_IN: {
                Woke: _to(CHECKING_IN),
                Answered: _to(CHECKING_IN, DOWNLOADING, TRAINING, RETURNING, RESTING, REFRESHING, UNENROLLED),
                CallLost: _to(CHECKING_IN),
                Interrupted: _to(RESTING),
            },
            DOWNLOADING: {
                Woke: _to(DOWNLOADING, RESTING),
                Answered: _to(DOWNLOADING, RETURNING, RESTING, REFRESHING, UNENROLLED),
                CallLost: _to(DOWNLOADING, RESTING),
                ModelStored: _to(DOWNLOADING, TRAINING),
                PatchFailed: _to(DOWNLOADING),
                Interrupted: _to(RETURNING, RESTING),
            },
            TRAINING: {
                Trained: _to(OFFERING, RETURNING, RESTING),
                TrainingFailed: _to(RETURNING, RESTING),
                Interrupted: _to(RETURNING, RESTING),
            },
            OFFERING: {
                Woke: _to(OFFERING, RESTING),
                Answered: _to(OFFERING, UPLOADING, RESTING, REFRESHING, UNENROLLED),
                CallLost: _to(OFFERING, RESTING),
                Interrupted: _to(OFFERING, RESTING),
            },
            UPLOADING: {
                Woke: _to(UPLOADING, RESTING),
                Answered: _to(UPLOADING, RESTING, REFRESHING, UNENROLLED),
                CallLost: _to(UPLOADING, RESTING),
                Interrupted: _to(UPLOADING, RESTING),
            },
            RETURNING: {
                Woke: _to(RETURNING, RESTING),
                Answered: _to(RETURNING, RESTING, REFRESHING, UNENROLLED),
                CallLost: _to(RETURNING, RESTING),
                Interrupted: _to(RETURNING, RESTING),
            },
        }
    )
)

#: The events that may answer each effect.
ALLOWED_EVENTS: Final[Mapping[type[Effect], frozenset[type[InputEvent]]]] = MappingProxyType(
    {
        Wait: frozenset({Woke, Interrupted}),
        Send: frozenset({Answered, CallLost, Interrupted}),
        StoreModel: frozenset({ModelStored, Interrupted}),
        PatchModel: frozenset({ModelStored, PatchFailed, Interrupted}),
        Train: frozenset({Trained, TrainingFailed, Interrupted}),
    }
)


class IllegalTransition(RuntimeError):
    """The driver gave a device an event that it had not asked for. Nothing was changed."""


def is_legal(state: DeviceState, asked_for: Effect, event: InputEvent) -> bool:
    """Return whether a device in ``state`` that ``asked_for`` this effect may get ``event``."""
    return type(event) in ALLOWED_EVENTS[type(asked_for)] and type(event) in TRANSITIONS[state]


def require_legal(state: DeviceState, asked_for: Effect, event: InputEvent) -> None:
    """Check that a device in ``state`` that ``asked_for`` this effect may get ``event``.

    Raises:
        IllegalTransition: it may not.
    """
    if not is_legal(state, asked_for, event):
        wanted = type(asked_for).__name__
        raise IllegalTransition(f"{type(event).__name__} to a device that is {state} and wants {wanted}")

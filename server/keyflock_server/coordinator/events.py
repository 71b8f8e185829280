"""The coordinator reports its events to an observer: numbers and closed lists only, never a delta."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from keyflock_server.protocol.identifiers import PopulationName, TaskName


class Observer(Protocol):
    """Receives the coordinator's events; a method must return at once and never raise."""

    def assigned(self, network: str, codec: str, *, is_repeated: bool) -> None:
        """A check-in was answered with an assignment: a new one, or one that the device has already."""
        ...

    def given_back(self, cause: str) -> None:
        """A device gave its assignment back; a repeated or late failure is no event."""
        ...

    def flushed(self, task: TaskName, reports: int, duration_s: float, interval_s: float) -> None:
        """A micro-batch was committed; the next one waits until the interval since its beginning is over."""
        ...

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """A micro-batch could not be committed; nobody was acknowledged, and it will be tried again."""
        ...

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        """A task's round could not go on; the other tasks do, and the next pass tries it again."""
        ...

    def store_unreachable(self, error: Exception) -> None:
        """A pass could not read the store; the next one tries again."""
        ...

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        """A verdict was given on reports: they were rejected, clipped or marked."""
        ...

    def quarantined(self, task: TaskName) -> None:
        """A device had too many rejected reports and is quarantined."""
        ...

    def violations_withheld(self, task: TaskName, devices: int) -> None:
        """So many devices of a round had rejected reports that no violation is recorded."""
        ...

    def housekeeping_failed(self, error: Exception) -> None:
        """Counts of verdicts could not be written, or quarantines not read; the next pass tries again."""
        ...

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        """Assignments expired; ``is_mostly``: with them, half of the round's slots have expired."""
        ...

    def unproven_devices_deleted(self, devices: int) -> None:
        """Devices that never reported and did not come back were deleted."""
        ...

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """A task was created whose stored sums may have so few phones that one's update can be inferred."""
        ...

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """A round was opened and assigns devices."""
        ...

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """A round was closed, abandoned or cancelled."""
        ...

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        """A round's result did not pass the checks; the reason only has numbers of the server."""
        ...

    def rounds_waiting(self, held: int) -> None:
        """``held`` rounds of all tasks wait for an operator now."""
        ...

    def version_published(self, population: PopulationName, version: int) -> None:
        """A new model version is the newest."""
        ...

    def rolled_back(self, population: PopulationName, version: int, to: int) -> None:
        """A new version with the weights of an earlier one is the newest, and those between are withdrawn."""
        ...

    def release_stepped(
        self, population: PopulationName, action: str, version: int, candidate: int | None, percent: int
    ) -> None:
        """A step of a population's release was taken; the action is a ``ReleaseAction``."""
        ...

    def release_policies_failed(self, error: Exception) -> None:
        """A pass could not take the steps of releases that are due; the next one tries again."""
        ...

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """A population has new priors from the evidence of ``phones`` phones."""
        ...

    def population_deleted(self, population: PopulationName) -> None:
        """The last rows of a population that an operator deleted are gone."""
        ...

    def blobs_marked(self) -> None:
        """Blobs from before there were markers are marked as this database's from now on."""
        ...

    def orphan_deleted(self, key: str, size_bytes: int, age_s: float) -> None:
        """A blob that no row points to was deleted."""
        ...


class NullObserver:
    """Ignores every event."""

    def assigned(self, network: str, codec: str, *, is_repeated: bool) -> None:
        """Do nothing."""

    def given_back(self, cause: str) -> None:
        """Do nothing."""

    def flushed(self, task: TaskName, reports: int, duration_s: float, interval_s: float) -> None:
        """Do nothing."""

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """Do nothing."""

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        """Do nothing."""

    def store_unreachable(self, error: Exception) -> None:
        """Do nothing."""

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        """Do nothing."""

    def quarantined(self, task: TaskName) -> None:
        """Do nothing."""

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """Do nothing."""

    def violations_withheld(self, task: TaskName, devices: int) -> None:
        """Do nothing."""

    def housekeeping_failed(self, error: Exception) -> None:
        """Do nothing."""

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        """Do nothing."""

    def unproven_devices_deleted(self, devices: int) -> None:
        """Do nothing."""

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """Do nothing."""

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """Do nothing."""

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        """Do nothing."""

    def rounds_waiting(self, held: int) -> None:
        """Do nothing."""

    def version_published(self, population: PopulationName, version: int) -> None:
        """Do nothing."""

    def rolled_back(self, population: PopulationName, version: int, to: int) -> None:
        """Do nothing."""

    def release_stepped(
        self, population: PopulationName, action: str, version: int, candidate: int | None, percent: int
    ) -> None:
        """Do nothing."""

    def release_policies_failed(self, error: Exception) -> None:
        """Do nothing."""

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """Do nothing."""

    def population_deleted(self, population: PopulationName) -> None:
        """Do nothing."""

    def blobs_marked(self) -> None:
        """Do nothing."""

    def orphan_deleted(self, key: str, size_bytes: int, age_s: float) -> None:
        """Do nothing."""


def fan_out(*observers: Observer) -> Observer:
    """Return an observer that hands each event to all of these, in their order.

    An observer that ignores an event, as ``NullObserver`` does, costs that event nothing.
    """
    methods = {
        name: _call_each([getattr(one, name) for one in observers if not _ignores(one, name)])
        for name in vars(NullObserver)
        if not name.startswith("_")
    }
    return cast("Observer", type("FanOut", (), {name: staticmethod(each) for name, each in methods.items()}))


def _ignores(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is getattr(NullObserver, event)


def _call_each(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    if len(methods) == 1:
        return methods[0]

    def each(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - each method has its own
        for method in methods:
            method(*args, **kwargs)

    return each

"""The interface to lists for operators: pages in a fixed order, each behind the last row of the one before.

A page is found by its place in an index (keyset), never by counting rows, so the thousandth costs what the
first does, and rows that are added meanwhile move nothing. All of it reads, on connections that only read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.funnel import Sessions
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord


class TaskPlace(NamedTuple):
    """A task's place in the list of tasks."""

    created_at: datetime
    name: TaskName


class RoundPlace(NamedTuple):
    """A round's place in the list of rounds."""

    opened_at: datetime
    id: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a list has; None stands for any."""

    population: PopulationName | None = None
    status: TaskStatus | None = None
    kind: TaskKind | None = None
    is_archived: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFilter:
    """Which rounds a list has; None stands for any."""

    population: PopulationName | None = None
    task: TaskName | None = None
    phase: Phase | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFilter:
    """Which devices a list has; None stands for any."""

    population: PopulationName
    #: Whether its quarantine ends after ``now``.
    is_quarantined: bool | None = None
    now: datetime
    tier: int | None = None
    locale: str | None = None
    app_build_min: int | None = None
    app_build_max: int | None = None


class ListingRepository(Protocol):
    """Reads pages of rows for operators."""

    async def populations(
        self, after: PopulationName | None, limit: int, *, is_archived: bool | None = None
    ) -> list[PopulationRecord]:
        """Return populations that are there, ordered by id, behind ``after``."""
        ...

    async def tasks(self, wanted: TaskFilter, after: TaskPlace | None, limit: int) -> list[TaskRecord]:
        """Return tasks of populations that are there, oldest first, behind ``after``."""
        ...

    async def rounds(self, wanted: RoundFilter, after: RoundPlace | None, limit: int) -> list[RoundRecord]:
        """Return rounds of populations that are there, newest first, behind ``after``."""
        ...

    async def devices(self, wanted: DeviceFilter, after: DeviceId | None, limit: int) -> list[DeviceRecord]:
        """Return devices, ordered by id, behind ``after``."""
        ...

    async def phases(self, tasks: Collection[TaskName]) -> Mapping[TaskName, Mapping[Phase, int]]:
        """Count the rounds of each task by phase; tasks without a round are left out."""
        ...

    async def held_rounds(self, tasks: Collection[TaskName]) -> Mapping[TaskName, RoundId]:
        """Return the held round of each task that has one."""
        ...

    async def sessions(self, round_id: RoundId) -> list[Sessions]:
        """Count the round's assignments by state and session shape, the most frequent first."""
        ...

    async def report_times(self, round_id: RoundId, limit: int) -> list[float]:
        """Return the seconds from assignment to counted report, the shortest first, of at most ``limit``."""
        ...

    async def personal_models(self, population: PopulationName) -> tuple[int, int]:
        """Count a population's stored personal models, and their bytes."""
        ...

    async def homes(self, names: Collection[PopulationName]) -> Mapping[PopulationName, PopulationRecord]:
        """Return those of these populations that are there, by id."""
        ...

    async def devices_enrolled(self, names: Collection[PopulationName]) -> Mapping[PopulationName, int]:
        """Count the devices of each population; populations without any are left out."""
        ...

    async def names(
        self, populations: Collection[PopulationName]
    ) -> Mapping[PopulationName, list[PopulationName]]:
        """Return all names that resolve to each population, in order."""
        ...

    async def used_ids(self, tasks: Collection[TaskName]) -> frozenset[TaskName]:
        """Return those of these ids that tasks have, also tasks of deleted populations."""
        ...

    async def verdicts(self, rounds: Collection[RoundId]) -> Mapping[RoundId, Mapping[str, int]]:
        """Return the counts of verdicts of these rounds; rounds without any are left out."""
        ...

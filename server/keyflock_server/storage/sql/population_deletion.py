"""The transactions that delete a population, in SQL: it is gone with the first, its rows with the others."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, exists, select, update

from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import LIVE_PHASES
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import PopulationGone, PopulationInUse
from keyflock_server.storage.sql.lock_order import lock_rows
from keyflock_server.storage.sql.population_rows import IS_THERE
from keyflock_server.storage.tables import (
    arrivals,
    assignments,
    evaluations,
    partials,
    population_names,
    populations,
    releases,
    round_causes,
    round_verdicts,
    rounds,
    tasks,
    versions,
)

_OVER: Final = tuple(status for status in TaskStatus if status.is_over)


def mark_deleted(connection: Connection, name: PopulationName, at: datetime) -> None:
    """Delete the population for everybody, as ``PopulationRepository.mark_deleted`` specifies."""
    # A transaction that adds a task or a device locks the same row.
    locked = select(populations.c.name).where(populations.c.name == name, IS_THERE).with_for_update()
    if connection.execute(locked).one_or_none() is None:
        raise PopulationGone(name)
    live = select(tasks.c.name).where(tasks.c.population == name, tasks.c.status.not_in(_OVER))
    names = [TaskName(task) for task in connection.scalars(live.order_by(tasks.c.name))]
    unfinished = select(rounds.c.id).where(rounds.c.population == name, rounds.c.phase.in_(LIVE_PHASES))
    its_rounds = [RoundId(id_) for id_ in connection.scalars(unfinished.order_by(rounds.c.id))]
    if names or its_rounds:
        raise PopulationInUse(names, its_rounds)
    connection.execute(delete(population_names).where(population_names.c.population == name))
    connection.execute(
        update(populations).where(populations.c.name == name).values(deleted_at=at, personalisation_json=None)
    )


def find_deleting(connection: Connection) -> list[PopulationName]:
    """Return the populations that are deleted and still have rows; the versions are the last of them."""
    has_rows = exists().where(versions.c.population == populations.c.name)
    query = select(populations.c.name).where(populations.c.deleted_at.is_not(None), has_rows)
    return [PopulationName(name) for name in connection.scalars(query.order_by(populations.c.name))]


def delete_rounds(connection: Connection, name: PopulationName, limit: int) -> int:
    """Delete some rounds with all that belongs to them; return their number."""
    next_rounds = select(rounds.c.id).where(rounds.c.population == name).order_by(rounds.c.id).limit(limit)
    ids = list(connection.scalars(next_rounds.with_for_update()))
    lock_rows(connection, assignments, assignments.c.round_id.in_(ids))
    for table in (assignments, partials, round_verdicts, round_causes, evaluations):
        connection.execute(delete(table).where(table.c.round_id.in_(ids)))
    connection.execute(delete(rounds).where(rounds.c.id.in_(ids)))
    return len(ids)


def finish_deletion(connection: Connection, name: PopulationName) -> tuple[str, ...]:
    """Empty the tasks, delete versions and releases; return the keys of blobs that no row points to."""
    row = select(populations.c.average_key).where(
        populations.c.name == name, populations.c.deleted_at.is_not(None)
    )
    keys = list(connection.scalars(row.with_for_update()))
    if not keys:
        raise PopulationGone(name)
    its_versions = select(versions).where(versions.c.population == name).order_by(*versions.primary_key)
    for version in connection.execute(its_versions.with_for_update()):
        keys += VersionRecord(**version._mapping).blob_keys  # noqa: SLF001 - the documented name
    connection.execute(delete(versions).where(versions.c.population == name))
    connection.execute(delete(releases).where(releases.c.population == name))
    its_tasks = select(tasks.c.name).where(tasks.c.population == name)
    states = select(tasks.c.optimizer_state_key).where(tasks.c.population == name).order_by(tasks.c.name)
    keys += list(connection.scalars(states.with_for_update()))
    emptied = {"spec_json": b"", "optimizer_state_key": None, "norm_scales_json": None}
    connection.execute(update(tasks).where(tasks.c.population == name).values(emptied))
    connection.execute(delete(arrivals).where(arrivals.c.task.in_(its_tasks)))
    connection.execute(update(populations).where(populations.c.name == name).values(average_key=None))
    return tuple(key for key in keys if key is not None)

"""Rows of rounds in SQL: how one is read, locked, advanced by an event and written."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, select, update

from keyflock_server.protocol.identifiers import PopulationName, RoundId
from keyflock_server.rounds.round import (
    LIVE_PHASES,
    Discarded,
    Phase,
    Round,
    RoundEvent,
)
from keyflock_server.rounds.stored_task import stored_task
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.group_decisions import advanced
from keyflock_server.storage.interfaces.rounds import RoundChanges
from keyflock_server.storage.records import RoundRecord, StagedVersion
from keyflock_server.storage.sql.rows import damaged_row
from keyflock_server.storage.tables import rounds

#: A spec is parsed again with every reading of its round, and takes longer than all other columns.
_spec = lru_cache(maxsize=64)(stored_task)
_UNPUBLISHED = LIVE_PHASES - {Phase.PUBLISHED}
_ROUND_COLUMNS = tuple(field.name for field in fields(Round) if field.name != "spec")
_OWN_COLUMNS = tuple(field.name for field in fields(RoundRecord) if field.name not in {"round", "staged"})
_STAGED_COLUMNS = tuple(field.name for field in fields(StagedVersion))


def discard_unpublished(
    connection: Connection,
    population: PopulationName,
    event_of: Callable[[Round], Discarded],
    at: datetime,
) -> tuple[RoundRecord, ...]:
    """Discard each round of a population that has not published, and return them as they are now."""
    mine = select(rounds).where(rounds.c.population == population, rounds.c.phase.in_(_UNPUBLISHED))
    rows = connection.execute(mine.order_by(rounds.c.id).with_for_update()).all()
    records = [round_record(row) for row in rows]
    return tuple([apply_event(connection, one, event_of(one.round), at) for one in records])


def lock_round(connection: Connection, round_id: RoundId) -> RoundRecord:
    """Return the round, locked against other transactions until this one ends; raises Superseded."""
    row = connection.execute(select(rounds).where(rounds.c.id == round_id).with_for_update()).one_or_none()
    if row is None:
        raise Superseded(round_id)
    return round_record(row)


def advance_round(
    connection: Connection,
    round_id: RoundId,
    event: RoundEvent,
    at: datetime,
    changes: RoundChanges | None = None,
) -> RoundRecord:
    """Lock a round, apply an event to it, and return it; raises Superseded."""
    return apply_event(connection, lock_round(connection, round_id), event, at, changes)


def apply_event(
    connection: Connection,
    before: RoundRecord,
    event: RoundEvent,
    at: datetime,
    changes: RoundChanges | None = None,
) -> RoundRecord:
    """Apply an event to a round that the caller has locked, and return it; raises Superseded."""
    after = replace(advanced(before, event, at), **(changes or {}))
    if (change := change_of(before, after)) is not None:
        connection.execute(*change)
    return after


def round_columns(record: RoundRecord) -> dict[str, object]:
    """Return the columns of a round's row."""
    return _moving_columns(record) | {"spec_json": record.round.spec.to_json()}


def change_of(before: RoundRecord, after: RoundRecord) -> tuple[Update, dict[str, object]] | None:
    """Return the statement that writes a round's new state, with its parameters; None if nothing changed."""
    was, becomes = _moving_columns(before), _moving_columns(after)
    changed = {name: value for name, value in becomes.items() if value != was[name]}
    if not changed:
        return None
    parameters = {f"new_{name}": value for name, value in changed.items()}
    return _update_of(tuple(changed)), parameters | {"of_round": before.round.id}


@cache
def _update_of(names: tuple[str, ...]) -> Update:
    """Return the statement that changes these columns: building one takes longer than executing it."""
    new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return update(rounds).where(rounds.c.id == bindparam("of_round")).values(new)


def _moving_columns(record: RoundRecord) -> dict[str, object]:
    """Return all columns but the spec, which never changes."""
    columns = {name: getattr(record.round, name) for name in _ROUND_COLUMNS}
    own = {name: getattr(record, name) for name in _OWN_COLUMNS}
    return columns | own | {name: getattr(record.staged, name, None) for name in _STAGED_COLUMNS}


def round_record(row: Row[Any]) -> RoundRecord:
    """Return the round that a row holds; raises StorageDamaged."""
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    own = {name: columns.pop(name) for name in _OWN_COLUMNS}
    staged = {name: columns.pop(name) for name in _STAGED_COLUMNS}
    if staged["stepped_from"] is not None:
        own["staged"] = StagedVersion(**staged)
    with damaged_row(f"round {row.id}"):
        spec, phase = _spec(columns.pop("spec_json")), Phase(columns.pop("phase"))
    return RoundRecord(round=Round(spec=spec, phase=phase, **columns), **own)

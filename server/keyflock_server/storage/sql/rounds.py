"""Rounds and assignments in SQL: the transactions that make acked mean counted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import FINAL_PHASES, Phase, Round
from keyflock_server.rounds.task import stored_task
from keyflock_server.storage.door import AlreadyExists, StorageError
from keyflock_server.storage.records import AssignmentRecord, AssignmentState, CountedReport, RoundRecord
from keyflock_server.storage.sql.engine import reader_of
from keyflock_server.storage.sql.verdicts import add_verdicts, verdicts_of
from keyflock_server.storage.tables import assignments, devices, populations, rounds, tasks, versions

_KEYS = (
    "partial_key",
    "aggregate_key",
    "checkpoint_key",
    "download_key",
    "state_key",
    "average_key",
    "released_key",
)


class SqlRounds:
    """``door.RoundTable``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader_of(engine)

    async def add(self, record: RoundRecord) -> None:
        """A new round."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(rounds).values(_columns(record)))
        except IntegrityError:
            raise AlreadyExists(record.round.id) from None

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """One round."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(rounds).where(rounds.c.id == round_id))).one_or_none()
        return None if row is None else _record(row)

    async def of_task(self, task: TaskName) -> list[RoundRecord]:
        """A task's rounds, by sequence."""
        query = select(rounds).where(rounds.c.task == task).order_by(rounds.c.sequence)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [_record(row) for row in rows]

    async def unfinished(self) -> list[RoundRecord]:
        """Rounds that are not in a final phase."""
        query = select(rounds).where(rounds.c.phase.not_in(FINAL_PHASES)).order_by(rounds.c.opened_at)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [_record(row) for row in rows]

    async def save(self, record: RoundRecord) -> None:
        """The round as it stands now."""
        async with self._engine.begin() as connection:
            await _save(connection, record)

    async def assign(self, record: RoundRecord, assignment: AssignmentRecord) -> None:
        """The round with one slot more taken, and by whom."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(assignments).values(asdict(assignment)))
                await _save(connection, record)
        except IntegrityError:
            raise AlreadyExists(assignment.id) from None

    async def fail(self, record: RoundRecord, assignment: AssignmentId, session_shape: str) -> None:
        """The round with one assignment given back."""
        change = (
            update(assignments)
            .where(assignments.c.round_id == record.round.id, assignments.c.id == assignment)
            .values(state=AssignmentState.FAILED, session_shape=session_shape)
        )
        async with self._engine.begin() as connection:
            await connection.execute(change)
            await _save(connection, record)

    async def commit_flush(
        self, record: RoundRecord, reports: Sequence[CountedReport], contributed_at: datetime
    ) -> None:
        """The round with its new partial aggregate, and the reports that are in it."""
        its_devices = [report.device for report in reports]
        open_to_them = (
            select(func.count())
            .select_from(assignments)
            .where(
                assignments.c.round_id == record.round.id,
                assignments.c.device.in_(its_devices),
                assignments.c.state != AssignmentState.FAILED,
            )
        )
        count = (
            update(assignments)
            .where(assignments.c.round_id == record.round.id, assignments.c.device == bindparam("of_device"))
            .values(
                state=AssignmentState.COUNTED,
                report_digest=bindparam("digest"),
                weight=bindparam("its_weight"),
                session_shape=bindparam("shape"),
            )
        )
        contribute = (
            update(devices).where(devices.c.id.in_(its_devices)).values(last_contributed_at=contributed_at)
        )
        rows = [
            {
                "of_device": report.device,
                "digest": report.report_digest,
                "its_weight": report.weight,
                "shape": report.session_shape,
            }
            for report in reports
        ]
        async with self._engine.begin() as connection:
            if (await connection.execute(open_to_them)).scalar_one() != len(reports):
                raise StorageError(f"Round {record.round.id}: a report has no open assignment to count for.")
            await connection.execute(count, rows)
            await connection.execute(contribute)
            await _save(connection, record)

    async def publish(self, record: RoundRecord, version: VersionRecord, optimizer_state_key: str) -> None:
        """The round's new version, as the population's newest."""
        newest = (
            update(populations)
            .where(populations.c.name == version.population)
            .values(latest_version=version.version, average_key=record.average_key)
        )
        state = (
            update(tasks)
            .where(tasks.c.name == record.round.task)
            .values(optimizer_state_key=optimizer_state_key)
        )
        async with self._engine.begin() as connection:
            await connection.execute(insert(versions).values(asdict(version)))
            await connection.execute(newest)
            await connection.execute(state)
            await _save(connection, record)

    async def publish_personalisation(self, record: RoundRecord, personalisation_json: bytes | None) -> None:
        """The round's end, and what its population is personalised with from now on; None leaves that."""
        change = (
            update(populations)
            .where(populations.c.name == record.round.population)
            .values(personalisation_json=personalisation_json)
        )
        async with self._engine.begin() as connection:
            if personalisation_json is not None:
                await connection.execute(change)
            await _save(connection, record)

    async def assignments(self, round_id: RoundId) -> list[AssignmentRecord]:
        """The round's assignments."""
        query = select(assignments).where(assignments.c.round_id == round_id)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query)
        return [_assignment(row) for row in rows]

    async def assignment(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        """One device's assignment in the round."""
        query = select(assignments).where(assignments.c.round_id == round_id, assignments.c.device == device)
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _assignment(row)

    async def purge_forgotten(self, round_id: RoundId) -> None:
        """Delete the assignments of devices that are no longer enrolled."""
        gone = delete(assignments).where(
            assignments.c.round_id == round_id, assignments.c.device.not_in(select(devices.c.id))
        )
        async with self._engine.begin() as connection:
            await connection.execute(gone)

    async def add_verdicts(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """So many more of each verdict, whoever else is counting."""
        async with self._engine.begin() as connection:
            await add_verdicts(connection, counts)

    async def verdicts(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """What was said of the reports to the task's rounds, or one of them."""
        async with self._reader.connect() as connection:
            return await verdicts_of(connection, task, round_id)


async def _save(connection: AsyncConnection, record: RoundRecord) -> None:
    await connection.execute(update(rounds).where(rounds.c.id == record.round.id).values(_columns(record)))


def _columns(record: RoundRecord) -> dict[str, object]:
    columns = {
        field.name: getattr(record.round, field.name) for field in fields(Round) if field.name != "spec"
    }
    keys = {key: getattr(record, key) for key in _KEYS}
    return columns | keys | {"spec_json": record.round.spec.to_json()}


def _record(row: Row[Any]) -> RoundRecord:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    keys = {key: columns.pop(key) for key in _KEYS}
    spec = stored_task(columns.pop("spec_json"))
    phase = Phase(columns.pop("phase"))
    return RoundRecord(round=Round(spec=spec, phase=phase, **columns), **keys)


def _assignment(row: Row[Any]) -> AssignmentRecord:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    return AssignmentRecord(state=AssignmentState(columns.pop("state")), **columns)

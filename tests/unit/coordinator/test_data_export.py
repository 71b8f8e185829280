"""What ``GET /v1/devices/me`` tells is all that the database holds: every table, every column."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from sqlalchemy import insert
from tests.unit.coordinator.harness import OWNER_KEY, POPULATION, CoordinatorHarness

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import device_digest, phone_owner, tombstone_digest, user_digest
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.protocol.stored_data import StoredData
from keyflock_server.rounds.quarantine import Quarantine, QuarantinedBy, QuarantinePeriod, Violation
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import metadata

DEVICE = DeviceId("d" * 32)
SIBLING = DeviceId("e" * 32)
#: 128 random bits, as a keyboard would name its user.
USER = "vT0hJ3qkX2m9sY8bQw5Zrg"
DIGEST = user_digest(OWNER_KEY, POPULATION, USER)
ROUND = RoundId("t-1")

#: Columns that say nothing to whoever reads them: each with what is told instead.
INSTEAD = "told instead: "
#: Where the value of each column of a table about devices is in the answer.
TOLD = {
    "devices": {
        "id": "devices.0.device",
        "population": "devices.0.population",
        "user_digest": f"{INSTEAD}devices.0.enrolment.has_user",
        "app_build": "devices.0.enrolment.app_build",
        "locale": "devices.0.enrolment.locale",
        "enrolled_at": "devices.0.enrolment.enrolled_at",
        "last_seen_at": "devices.0.enrolment.last_seen_at",
        "last_contributed_at": "devices.0.activity.last_contributed_at",
        "tier": "devices.0.enrolment.tier",
        "tags": "devices.0.enrolment.tags",
        "standing_json": f"{INSTEAD}devices.0.standing.quarantine",
        "quarantined_until": "devices.0.standing.quarantined_until",
        "token_generation": "devices.0.enrolment.token_generation",
        "subject_digest": f"{INSTEAD}devices.0.enrolment.is_attested",
        "silences": "devices.0.activity.silences",
        "past_participations_json": f"{INSTEAD}devices.0.activity.past_participations",
        "has_head": "devices.0.enrolment.has_stored_model",
        "last_silent_at": "devices.0.activity.last_silent_at",
        "changed_at": "devices.0.activity.changed_at",
    },
    "assignments": {
        "round_id": "devices.0.assignments.0.round",
        "device": "devices.0.device",
        "id": "devices.0.assignments.0.assignment",
        "state": "devices.0.assignments.0.state",
        "assigned_at": "devices.0.assignments.0.assigned_at",
        "report_digest": "devices.0.assignments.0.report_digest",
        "weight": "devices.0.assignments.0.weight",
        "session_shape": "devices.0.assignments.0.session_shape",
        "counted_in": "devices.0.assignments.0.counted_in",
        "counted_at": "devices.0.assignments.0.counted_at",
        "expires_at": "devices.0.assignments.0.expires_at",
    },
    "heads": {
        "population": "personal_models.0.population",
        "owner": f"{INSTEAD}personal_models.0.owner",
        "tag": f"{INSTEAD}the ETag of GET /v1/heads",
        "key_id": f"{INSTEAD}nothing: it names a key of the server's",
        "sealed": f"{INSTEAD}the answer of GET /v1/heads",
        "size_bytes": "personal_models.0.size_bytes",
        "updated_at": "personal_models.0.updated_at",
    },
    "revocations": {
        "device_digest": f"{INSTEAD}devices.0.revocation",
        "generation": "devices.0.revocation.generation",
        "effective_at": "devices.0.revocation.effective_at",
        "until": "devices.0.revocation.until",
        "written_at": "devices.0.revocation.written_at",
    },
    "audit_log": {
        "sequence": f"{INSTEAD}nothing: a number of the log",
        "at": "devices.0.decisions.0.at",
        "operator": f"{INSTEAD}nothing: another person",
        "role": f"{INSTEAD}nothing: another person's",
        "action": "devices.0.decisions.0.action",
        "subject_kind": f"{INSTEAD}devices.0.decisions",
        "subject": f"{INSTEAD}devices.0.device",
        "population": "devices.0.population",
        "reason": "devices.0.decisions.0.reason",
        "before_json": f"{INSTEAD}devices.0.standing",
        "after_json": f"{INSTEAD}devices.0.standing",
        "previous_digest": f"{INSTEAD}nothing: it chains the log",
        "digest": f"{INSTEAD}nothing: it chains the log",
    },
    "tombstones": {
        "digest": f"{INSTEAD}devices.0.limits",
        "until": "devices.0.limits.0.until",
        "quarantined_until": "devices.0.limits.0.quarantined_until",
        "last_contributed_at": "devices.0.limits.0.last_contributed_at",
        "participations_json": f"{INSTEAD}devices.0.limits.0.participations",
    },
}
#: Tables without a row about one device: sums, counts, and what operators and servers made.
ABOUT_NO_DEVICE = {
    "populations",
    "population_names",
    "model_versions",
    "tasks",
    "rounds",
    "partials",
    "leases",
    "arrivals",
    "cluster",
    "round_verdicts",
    "round_causes",
    "evaluations",
    "releases",
    "api_tokens",
    "idempotency_keys",
}


def test_every_table_and_every_column_is_told_or_is_about_no_device() -> None:
    columns = {name: set(table.columns.keys()) for name, table in metadata.tables.items()}

    assert columns.keys() == TOLD.keys() | ABOUT_NO_DEVICE
    assert {name: columns[name] for name in TOLD} == {name: set(told) for name, told in TOLD.items()}


@dataclass
class FilledDatabase:
    """A database with a row about the device in every table, no two values alike."""

    harness: CoordinatorHarness
    rows: dict[str, dict[str, Any]]

    async def stored(self, user: str | None = None) -> StoredData:
        identity = DeviceIdentity(DEVICE, POPULATION, is_described=True)
        return await self.harness.coordinator.exports.stored_data(
            identity, user, is_whole_user=user is not None
        )


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[FilledDatabase]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"
    harness = CoordinatorHarness(store=SqlStore(url))
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task()
    days = (harness.now + timedelta(days=number) for number in itertools.count(1))
    standing = Quarantine(
        violations=(Violation(at=next(days), round=ROUND, verdict="non_finite"),),
        last=QuarantinePeriod(
            since=next(days), until=next(days), reason="too many of them", by=QuarantinedBy.POLICY
        ),
        quarantines=3,
    )
    rows: dict[str, dict[str, Any]] = {
        "devices": {
            "id": DEVICE,
            "population": POPULATION,
            "user_digest": DIGEST,
            "app_build": 41,
            "locale": "de-CH",
            "enrolled_at": next(days),
            "last_seen_at": next(days),
            "last_contributed_at": next(days),
            "tier": 2,
            "tags": ("beta", "tablet"),
            "standing_json": standing.to_json(),
            "quarantined_until": next(days),
            "token_generation": 4,
            "subject_digest": "5" * 64,
            "silences": 6,
            "past_participations_json": b'{"t": 7}',
            "has_head": True,
            "last_silent_at": next(days),
            "changed_at": next(days),
        },
        "assignments": {
            "round_id": ROUND,
            "device": DEVICE,
            "id": "a" * 32,
            "state": "counted",
            "assigned_at": next(days),
            "report_digest": bytes(range(32)),
            "weight": 8.5,
            "session_shape": "-v[]+",
            "counted_in": ROUND,
            "counted_at": next(days),
            "expires_at": next(days),
        },
        "heads": {
            "population": POPULATION,
            "owner": DIGEST,
            "tag": b"tag",
            "key_id": "key",
            "sealed": b"sealed",
            "size_bytes": 6,
            "updated_at": next(days),
        },
        "revocations": {
            "device_digest": device_digest(OWNER_KEY, DEVICE),
            "generation": 3,
            "effective_at": next(days),
            "until": next(days),
            "written_at": next(days),
        },
        "audit_log": {
            "sequence": 99,
            "at": next(days),
            "operator": "somebody",
            "role": "admin",
            "action": "device.quarantine",
            "subject_kind": "device",
            "subject": device_digest(OWNER_KEY, DEVICE),
            "population": POPULATION,
            "reason": "it sends noise",
            "previous_digest": bytes(32),
            "digest": bytes(32),
        },
        "tombstones": {
            "digest": tombstone_digest(OWNER_KEY, DIGEST),
            "until": next(days),
            "quarantined_until": next(days),
            "last_contributed_at": next(days),
            "participations_json": b'{"t": 9}',
        },
    }
    engine = engine_for(url)
    async with engine.begin() as connection:
        for name, row in rows.items():
            await connection.execute(insert(metadata.tables[name]).values(row))
    await engine.dispose()
    yield FilledDatabase(harness, rows)
    await harness.coordinator.stop()
    await harness.store.close()


def at(stored: StoredData, path: str) -> Any:  # noqa: ANN401 - whatever the answer holds there
    """Return the value at a path such as ``devices.0.device``."""
    whole = to_builtins(stored, builtin_types=(bytes,))
    found = reduce(lambda part, name: part[int(name) if name.isdecimal() else name], path.split("."), whole)
    return list(found) if isinstance(found, tuple) else found


def shown(value: object) -> object:
    match value:
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
        case tuple():
            return list(value)
        case _:
            return value


async def test_the_value_of_every_column_is_in_the_answer(filled: FilledDatabase) -> None:
    stored = await filled.stored()

    for table, columns in TOLD.items():
        for column, path in columns.items():
            if not path.startswith(INSTEAD):
                assert at(stored, path) == shown(filled.rows[table][column]), (table, column)
    assert at(stored, "devices.0.enrolment.has_user") is True
    assert at(stored, "devices.0.enrolment.is_attested") is True
    assert at(stored, "devices.0.activity.participations") == {"t": 1}
    assert at(stored, "devices.0.activity.past_participations") == {"t": 7}
    assert at(stored, "devices.0.limits.0.participations") == {"t": 9}
    assert at(stored, "devices.0.standing.quarantine.reason") == "too many of them"
    assert at(stored, "devices.0.standing.quarantine.count") == 3
    assert at(stored, "devices.0.standing.violations.0.verdict") == "non_finite"
    assert at(stored, "personal_models.0.owner") == "user"


async def test_no_digest_under_the_servers_key_and_no_encrypted_model_is_in_the_answer(
    filled: FilledDatabase,
) -> None:
    text = repr(await filled.stored())

    secret = ("user_digest", "subject_digest", "owner", "tag", "sealed", "device_digest", "operator")
    hidden = [
        repr(value) for row in filled.rows.values() for column, value in row.items() if column in secret
    ]
    hidden.append(repr(filled.rows["tombstones"]["digest"]))
    assert len(hidden) == 8
    assert [one for one in hidden if one in text] == []


async def test_the_user_gets_every_device_and_every_model_of_theirs(filled: FilledDatabase) -> None:
    engine = engine_for(f"sqlite+aiosqlite:///{filled.harness.store.name.removeprefix('sqlite ')}")
    own = phone_owner(OWNER_KEY, POPULATION, SIBLING)
    async with engine.begin() as connection:
        for name, changes in (("devices", {"id": SIBLING}), ("heads", {"owner": own})):
            await connection.execute(insert(metadata.tables[name]).values(filled.rows[name] | changes))
    await engine.dispose()

    alone, all_of_it = await filled.stored(), await filled.stored(USER)

    assert [one.device for one in alone.devices] == [DEVICE]
    assert [one.device for one in all_of_it.devices] == [DEVICE, SIBLING]
    assert [one.owner for one in alone.personal_models] == ["user"]
    assert [one.owner for one in all_of_it.personal_models] == ["user", "device"]


@pytest.mark.parametrize(
    ("user", "code"),
    [("alice@example.com", ProblemCode.USER_NOT_PROVEN), (USER[::-1], ProblemCode.FORBIDDEN)],
)
async def test_another_user_is_told_nothing(filled: FilledDatabase, user: str, code: ProblemCode) -> None:
    with pytest.raises(ApiError) as refused:
        await filled.stored(user)

    assert refused.value.code is code

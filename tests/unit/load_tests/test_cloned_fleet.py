"""A copied phone is what enrolment makes, with another id."""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select

from keyflock_load_tests.cloned_fleet import (
    DATABASE_FILE,
    EnrolledPhone,
    NotCopied,
    clone_phone,
    clone_tokens,
)
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import load_or_create_signing_keys
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.storage.records import DeviceRecord
from keyflock_server.storage.tables import devices, metadata

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DEVICE = DeviceRecord(
    id=DeviceId("0123456789abcdef0123456789abcdef"),
    population=PopulationName("en-US"),
    user_digest=None,
    app_build=100,
    locale="en-US",
    enrolled_at=NOW,
    last_seen_at=NOW,
    tier=2,
    tags=("beta",),
)


@pytest.fixture
def tokens(tmp_path: Path) -> DeviceTokens:
    return DeviceTokens(load_or_create_signing_keys(tmp_path), 86_400.0)


@pytest.fixture
def phone(tmp_path: Path, tokens: DeviceTokens) -> EnrolledPhone:
    engine = create_engine(f"sqlite:///{tmp_path / DATABASE_FILE}")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(devices).values(asdict(DEVICE)))
    engine.dispose()
    return EnrolledPhone(DEVICE.id, tokens.issue(DeviceIdentity(DEVICE.id, DEVICE.population), NOW))


def test_a_token_that_is_signed_anew_for_its_own_device_is_the_same(
    tmp_path: Path, phone: EnrolledPhone
) -> None:
    assert clone_tokens(tmp_path, phone, [phone.device]) == [phone.token.encode()]


def test_a_copys_token_names_the_copy_and_is_else_the_same(
    tmp_path: Path, phone: EnrolledPhone, tokens: DeviceTokens
) -> None:
    other = DeviceId("f" * 32)

    [token] = clone_tokens(tmp_path, phone, [other])

    assert tokens.read(token.decode(), NOW) == replace(tokens.read(phone.token, NOW), device=other)


def test_a_copys_row_differs_in_its_id_and_in_when_it_came(tmp_path: Path, phone: EnrolledPhone) -> None:
    clone_phone(tmp_path, phone, 50)

    engine = create_engine(f"sqlite:///{tmp_path / DATABASE_FILE}")
    with engine.connect() as connection:
        query = select(devices).where(devices.c.id != phone.device)
        copies = [DeviceRecord(**row._mapping) for row in connection.execute(query)]
    engine.dispose()
    assert len({copy.id for copy in copies}) == 50
    for copy in copies:
        assert copy.last_contributed_at is not None
        assert copy.enrolled_at < copy.last_contributed_at < copy.last_seen_at
        assert timedelta(hours=1) < datetime.now(UTC) - copy.last_seen_at < timedelta(days=1)
        times = {
            name: getattr(DEVICE, name) for name in ("enrolled_at", "last_seen_at", "last_contributed_at")
        }
        assert replace(copy, id=DEVICE.id, **times) == DEVICE


def test_a_phone_of_another_server_is_not_copied(
    tmp_path_factory: pytest.TempPathFactory, phone: EnrolledPhone
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    load_or_create_signing_keys(elsewhere)

    with pytest.raises(NotCopied):
        clone_tokens(elsewhere, phone, [DeviceId("f" * 32)])

"""The whole server: an operator erases a device, and the audit log says so without its id."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

from tests.http.personal.test_names_of_populations import HEAD, ask, operator, phone

from keyflock_server.data_folder import DATABASE_FILE
from keyflock_server.protocol import calls

if TYPE_CHECKING:
    from tests.http.personal.conftest import PersonalHarness

REASON = b'{"reason": "a test phone"}'


async def only_device(harness: PersonalHarness) -> dict[str, Any]:
    (device,) = json.loads((await operator(harness, "GET", "/populations/en-US/devices")).body)["items"]
    found: dict[str, Any] = device
    return found


async def test_a_device_is_gone_with_its_model_and_its_token_is_void(harness: PersonalHarness) -> None:
    mine = await phone(harness, "en-US")
    await mine.send(calls.PUT_HEAD, HEAD)
    device = await only_device(harness)

    answer = await operator(harness, "POST", f"/devices/{device['id']}/forget", REASON)
    again = await operator(harness, "POST", f"/devices/{device['id']}/forget", REASON)

    forgotten = json.loads(answer.body)
    assert (answer.status, forgotten["id"], forgotten["personal_models"]) == (200, device["id"], 1)
    assert again.status == 404
    assert (await ask(mine, calls.GET_HEAD, "en-US")).status == 401
    models = json.loads((await operator(harness, "GET", "/populations/en-US/personal-models")).body)
    assert (models["models"], models["stored_bytes"]) == (0, 0)


async def test_the_audit_log_has_the_erasure_and_not_the_device(harness: PersonalHarness) -> None:
    await phone(harness, "en-US")
    device = await only_device(harness)
    await operator(harness, "POST", f"/devices/{device['id']}/forget", REASON)

    with contextlib.closing(sqlite3.connect(harness.folder / "data" / DATABASE_FILE)) as database:
        log = database.execute("SELECT * FROM audit_log WHERE action = 'device.forget'").fetchall()
    assert len(log) == 1
    assert {"root", "a test phone"} <= set(log[0])
    assert device["id"] not in repr(log)


async def test_a_device_that_was_changed_meanwhile_has_another_revision(harness: PersonalHarness) -> None:
    await phone(harness, "en-US")
    device = await only_device(harness)
    await operator(harness, "POST", f"/devices/{device['id']}/quarantine", REASON)
    quarantined = await only_device(harness)
    await operator(harness, "POST", f"/devices/{device['id']}/revoke", REASON)
    revoked = await only_device(harness)

    assert len({one["revision"] for one in (device, quarantined, revoked)}) == 3

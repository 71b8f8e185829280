"""The whole server: a user asks for their data, and an operator's decision about the device is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.personal.conftest import ANN, PersonalHarness, head_bytes

from keyflock_client_sim.drivers.stored_data import StoredDataRefused, fetch_stored_data
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Request

if TYPE_CHECKING:
    from keyflock_server.protocol.stored_data import StoredData

HEAD = head_bytes("zoo tea", "tea ten")


async def test_an_app_shows_its_user_what_is_stored_of_one_phone_and_of_all(harness: PersonalHarness) -> None:
    phone, sibling, other = await harness.phone(ANN), await harness.phone(ANN), await harness.phone()
    await sibling.send(calls.PUT_HEAD, HEAD)

    one = await fetch_stored_data(harness.server, phone.token)
    all_of_it = await fetch_stored_data(harness.server, phone.token, ANN)
    others = await fetch_stored_data(harness.server, other.token)

    assert (len(one.devices), len(all_of_it.devices)) == (1, 2)
    assert [device.enrolment.has_user for device in all_of_it.devices] == [True, True]
    assert one.personal_models == all_of_it.personal_models
    assert [(model.owner, model.population) for model in one.personal_models] == [("user", "en-US")]
    assert one.personal_models[0].size_bytes > 0
    assert (others.devices[0].enrolment.has_user, others.personal_models) == (False, ())


async def test_who_is_not_the_user_or_is_forgotten_is_told_nothing(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)

    with pytest.raises(StoredDataRefused, match="forbidden"):
        await fetch_stored_data(harness.server, phone.token, ANN[::-1])
    await phone.send(calls.FORGET)
    with pytest.raises(StoredDataRefused, match="token_invalid"):
        await fetch_stored_data(harness.server, phone.token)


async def test_what_is_told_and_what_is_forgotten_is_the_same(harness: PersonalHarness) -> None:
    phone = await harness.phone()
    await phone.send(calls.PUT_HEAD, HEAD)
    await phone.refresh(ANN)

    told = await fetch_stored_data(harness.server, phone.token)
    await phone.send(calls.FORGET)
    again: StoredData = await fetch_stored_data(harness.server, (await harness.phone(ANN)).token, ANN)

    assert [model.owner for model in told.personal_models] == ["device"]
    assert (len(again.devices), again.personal_models) == (1, ())


async def test_an_operators_decision_about_the_phone_is_told_without_the_operator(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone()
    (device,) = (await fetch_stored_data(harness.server, phone.token)).devices
    headers = {
        "authorization": f"Bearer {harness.server.admin_token}",
        "content-type": "application/json",
    }
    path = f"/admin/v1/devices/{device.device}/quarantine"
    await harness.server.send(Request("POST", path, headers, b'{"reason": "it sends noise"}'))

    (told,) = (await fetch_stored_data(harness.server, phone.token)).devices

    assert [one.reason for one in told.decisions] == ["it sends noise"]
    assert told.standing.quarantine is not None
    assert told.standing.quarantine.by == "operator"
    assert "root" not in repr(told)

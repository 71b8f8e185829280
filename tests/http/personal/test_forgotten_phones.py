"""The whole server: what a forgotten, refreshed or revoked token opens, and whose models a name opens."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.http.personal.conftest import ANN, TASK, PersonalHarness, PersonalPhone, code, head_bytes

from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import CALLS, Call, Credential, Request
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    Enrolment,
    EnrolRequest,
    Failure,
    FailureCause,
    Forgotten,
    Offer,
    Report,
    SuggestionRequest,
)
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from pathlib import Path

    from keyflock_server.protocol.calls import Response

HEAD = head_bytes("zoo tea", "tea ten")
CHECK_IN = CheckIn(protocol=1, app_build=1, locale="en-US", examples=10)
#: A valid request for every call of the protocol; enrolment shows the token to refresh it.
REFUSED = dict.fromkeys((call.name for call in CALLS), (401, ProblemCode.TOKEN_INVALID))


@dataclass
class AssignedPhone:
    """A phone with work to do, and a good request of each call."""

    phone: PersonalPhone
    assignment: Assignment

    async def send_each(self) -> dict[str, tuple[int, str]]:
        """How each call is answered."""
        answers = {call.name: await self.send(call) for call in CALLS}
        return {name: (answer.status, code(answer)) for name, answer in answers.items()}

    async def send(self, call: Call) -> Response:
        """As a phone would call it."""
        assignment = self.assignment
        bodies: dict[str, Message] = {
            "enrol": EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US"),
            "check_in": CHECK_IN,
            "offer": Offer(size_bytes=10, model_version=assignment.model_version),
            "report": Report(delta=b"delta", examples=3),
            "failure": Failure(cause=FailureCause.INTERRUPTED),
            "suggest": SuggestionRequest(context="the"),
        }
        body = HEAD if call is calls.PUT_HEAD else b""
        if call.name in bodies:
            body = wire.encode(bodies[call.name])
        headers = {"authorization": f"Bearer {self.phone.token}"}
        if call.max_body_bytes:
            headers["content-type"] = call.media_type
        if call.credential is Credential.ASSIGNMENT:
            headers[calls.ASSIGNMENT_HEADER] = assignment.token
        path = call.path.format(population="en-US", version=0, assignment=assignment.id)
        return await self.phone.harness.server.send(Request(call.method, path, headers, body))


@pytest.fixture
async def assigned(harness: PersonalHarness) -> AssignedPhone:
    headers = {"authorization": f"Bearer {harness.server.admin_token}", "content-type": "application/toml"}
    await harness.server.send(Request("POST", "/admin/v1/tasks?reason=a+test", headers, TASK.encode()))
    await harness.pass_time()
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    await phone.words("the")  # what its user's model is, is in memory now
    answer = await phone.send(calls.CHECK_IN, wire.encode(CHECK_IN))
    return AssignedPhone(phone, wire.decode(answer.body, Assignment))


@pytest.mark.fault("D5")
async def test_a_forgotten_phone_is_refused_by_every_call(assigned: AssignedPhone) -> None:
    forgotten = await assigned.phone.send(calls.FORGET)

    assert forgotten.status == 200
    assert await assigned.send_each() == REFUSED


@pytest.mark.fault("D6")
async def test_a_revoked_phone_is_refused_by_every_call(assigned: AssignedPhone) -> None:
    harness = assigned.phone.harness
    headers = {"authorization": f"Bearer {harness.server.admin_token}", "content-type": "application/json"}
    (device,) = rows(harness, "SELECT device FROM assignments")[0]

    request = Request("POST", f"/admin/v1/devices/{device}/revoke", headers, b'{"reason": "a test"}')
    revoked = await harness.server.send(request)

    assert revoked.status == 200
    assert await assigned.send_each() == REFUSED
    assert len(rows(harness, "SELECT id FROM devices")) == 1


@pytest.mark.fault("D6")
async def test_a_refreshed_token_is_refused_by_every_call_after_its_grace(assigned: AssignedPhone) -> None:
    renewed = wire.decode((await assigned.send(calls.ENROL)).body, Enrolment)
    harness = assigned.phone.harness
    for _ in range(30):
        await harness.pass_time()

    refused = await assigned.send_each()
    assigned.phone.token = renewed.token
    taken = await assigned.send(calls.RELEASE)

    assert refused == REFUSED
    assert taken.status == 200


@pytest.mark.fault("D4")
async def test_a_phone_that_is_forgotten_leaves_its_users_model_to_the_others(
    harness: PersonalHarness,
) -> None:
    phone, sibling = await harness.phone(ANN), await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)

    forgotten = wire.decode((await phone.send(calls.FORGET)).body, Forgotten)

    assert (forgotten.devices, forgotten.heads) == (1, 0)
    assert (await sibling.send(calls.GET_HEAD)).body == HEAD


@pytest.mark.fault("D4")
async def test_a_phone_that_is_forgotten_takes_what_it_stored_before_it_named_a_user(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone()
    await phone.send(calls.PUT_HEAD, HEAD)
    await phone.refresh(ANN)

    forgotten = wire.decode((await phone.send(calls.FORGET)).body, Forgotten)

    assert forgotten.heads == 1
    assert rows(harness, "SELECT owner FROM heads") == []


@pytest.mark.fault("D4")
async def test_who_proves_the_user_takes_its_phones_and_its_model(harness: PersonalHarness) -> None:
    phone, sibling, other = await harness.phone(ANN), await harness.phone(ANN), await harness.phone(ANN[::-1])
    for one in (phone, other):
        await one.send(calls.PUT_HEAD, HEAD)

    forgotten = wire.decode((await sibling.forget_user(ANN)).body, Forgotten)
    after = await phone.send(calls.GET_HEAD)

    assert (forgotten.devices, forgotten.heads, forgotten.is_scrubbed) == (2, 1, True)
    assert code(after) == ProblemCode.TOKEN_INVALID
    assert (await other.send(calls.GET_HEAD)).body == HEAD


@pytest.mark.fault("D4")
@pytest.mark.parametrize("proof", [None, "alice@example.com", ANN[::-1]])
async def test_who_does_not_prove_the_user_takes_nothing(harness: PersonalHarness, proof: str | None) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)

    refused = await phone.forget_user(proof)

    assert code(refused) in (ProblemCode.USER_NOT_PROVEN, ProblemCode.FORBIDDEN)
    assert proof is None or proof.encode() not in refused.body
    assert (await phone.send(calls.GET_HEAD)).body == HEAD


@pytest.mark.fault("D4")
async def test_anyone_who_names_somebody_by_an_address_is_refused_and_deletes_nothing(
    harness: PersonalHarness,
) -> None:
    refused = await harness.enrol("alice@example.com")

    assert (refused.status, code(refused)) == (422, ProblemCode.USER_NOT_PROVEN)
    assert b"alice" not in refused.body
    assert rows(harness, "SELECT id FROM devices") == []


@pytest.mark.fault("D4")
async def test_with_the_backends_keys_its_statements_name_users_and_secrets_do_not(
    harness: PersonalHarness, tmp_path: Path
) -> None:
    backend = Ed25519PrivateKey.generate()
    public = backend.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    await asyncio.to_thread((tmp_path / "user_keys.pem").write_bytes, public)
    await harness.restart(user_keys=tmp_path / "user_keys.pem")
    claims = {"sub": "ann", "aud": "keyflock:user", "exp": harness.now + timedelta(minutes=5)}
    statement = jwt.encode(claims, backend, algorithm="EdDSA")
    first, second = await harness.phone(statement), await harness.phone(statement)

    await first.send(calls.PUT_HEAD, HEAD)
    shared = await second.send(calls.GET_HEAD)
    refused = await harness.enrol(ANN)
    forgotten = wire.decode((await second.forget_user(statement)).body, Forgotten)

    assert shared.body == HEAD
    assert (refused.status, code(refused)) == (422, ProblemCode.USER_NOT_PROVEN)
    assert (forgotten.devices, forgotten.heads) == (2, 1)


@pytest.mark.fault("D2")
async def test_a_copy_of_the_database_opens_no_users_model(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    found = rows(harness, "SELECT * FROM devices") + rows(harness, "SELECT * FROM heads")
    stolen = {value for row in found for value in row if isinstance(value, str) and value}

    for value in stolen:
        answer = await harness.enrol(value)
        if answer.status == 200:
            thief = PersonalPhone(harness, wire.decode(answer.body, Enrolment).token)
            assert code(await thief.send(calls.GET_HEAD)) == ProblemCode.HEAD_UNKNOWN
            assert code(await thief.forget_user(ANN)) == ProblemCode.FORBIDDEN

    assert len(stolen) >= 3
    assert (await phone.send(calls.GET_HEAD)).body == HEAD


@pytest.mark.fault("D2")
async def test_a_users_secret_is_in_no_file(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    await phone.send(calls.FORGET)

    assert ANN.encode() not in harness.everything_on_disk()


def rows(harness: PersonalHarness, query: str) -> list[tuple[object, ...]]:
    """What the database says."""
    with sqlite3.connect(harness.folder / "data" / "keyflock.sqlite3") as connection:
        return connection.execute(query).fetchall()

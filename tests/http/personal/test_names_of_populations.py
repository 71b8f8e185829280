"""The whole server: a population that is renamed, and one that is deleted, as its phones see it."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.personal.conftest import (
    ANN,
    CONFIG,
    TASK,
    PersonalHarness,
    PersonalPhone,
    code,
    head_bytes,
    vocabulary,
    weights,
)

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import CALLS, Call, Request
from keyflock_server.protocol.messages import Assignment, CheckIn, Enrolment, EnrolRequest, Release
from keyflock_server.protocol.operator.call import JSON

if TYPE_CHECKING:
    from keyflock_server.protocol.calls import Response

pytestmark = pytest.mark.fault("F14")

HEAD = head_bytes("zoo tea", "tea ten")
CHECK_IN = CheckIn(protocol=1, app_build=1, locale="en-US", examples=10)
NAMED = [call for call in CALLS if "{population}" in call.path]


async def operator(
    harness: PersonalHarness, method: str, path: str, body: bytes = b"", media_type: str = JSON
) -> Response:
    headers = {"authorization": f"Bearer {harness.server.admin_token}"}
    if body:
        headers["content-type"] = media_type
    return await harness.server.send(Request(method, f"/admin/v1{path}", headers, body))


async def order(harness: PersonalHarness, path: str, **fields: str) -> dict[str, Any]:
    """An operator's order about a population, which is carried out."""
    answer = await operator(
        harness, "POST", f"/populations/{path}", json.dumps(fields | {"reason": "a test"}).encode()
    )
    assert answer.status == 200, answer.body
    decoded: dict[str, Any] = json.loads(answer.body)
    return decoded


async def enrol(
    harness: PersonalHarness, population: str, token: str | None = None, user: str | None = None
) -> Response:
    request = EnrolRequest(protocol=1, population=population, app_build=1, locale="en-US", user=user)
    headers = {"content-type": calls.MEDIA_TYPE}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return await harness.server.send(Request("POST", "/v1/devices", headers, wire.encode(request)))


async def phone(harness: PersonalHarness, population: str, user: str | None = None) -> PersonalPhone:
    return PersonalPhone(
        harness, wire.decode((await enrol(harness, population, user=user)).body, Enrolment).token
    )


async def ask(phone: PersonalPhone, call: Call, population: str) -> Response:
    headers = {"authorization": f"Bearer {phone.token}"}
    if call.max_body_bytes:
        headers["content-type"] = call.media_type
    body = HEAD if call is calls.PUT_HEAD else b""
    path = call.path.format(population=population)
    return await phone.harness.server.send(Request(call.method, path, headers, body))


async def start_task(harness: PersonalHarness, text: str = TASK) -> dict[str, Any]:
    answer = await operator(harness, "POST", "/tasks?reason=a+test", text.encode(), "application/toml")
    assert answer.status == 201, answer.body
    await harness.pass_time()
    decoded: dict[str, Any] = json.loads(answer.body)
    return decoded


async def test_phones_of_a_former_and_of_the_new_name_are_of_one_population(harness: PersonalHarness) -> None:
    old = await phone(harness, "en-US")

    renamed = await order(harness, "en-US/rename", to="english")
    new = await phone(harness, "english")

    assert (renamed["name"], renamed["id"], renamed["former_names"]) == ("english", "en-US", ["en-US"])
    for one in (old, new):
        for name in ("en-US", "english"):
            answers = [await ask(one, call, name) for call in NAMED if call is not calls.GET_HEAD]
            assert [answer.status for answer in answers] == [200] * len(answers), name
            release = wire.decode(answers[0].body, Release)
            assert (release.population, release.model_version) == (name, 0)
    listed = json.loads((await operator(harness, "GET", "/populations")).body)
    assert [(one["name"], one["devices"]) for one in listed["items"]] == [("english", 2)]


async def test_a_token_of_a_former_name_is_refreshed_under_either(harness: PersonalHarness) -> None:
    old = await phone(harness, "en-US", ANN)
    await old.send(calls.PUT_HEAD, HEAD)
    await order(harness, "en-US/rename", to="english")

    for name in ("english", "en-US"):
        refreshed = await enrol(harness, name, old.token, ANN)
        assert refreshed.status == 200, refreshed.body
        old = PersonalPhone(harness, wire.decode(refreshed.body, Enrolment).token)

    # The same user under the new name has the same personal model.
    found = await ask(await phone(harness, "english", ANN), calls.GET_HEAD, "english")
    assert found.body == HEAD
    assert (
        len(json.loads((await operator(harness, "GET", "/populations/english/devices")).body)["items"]) == 2
    )


async def test_a_population_that_the_phone_is_not_of_stays_forbidden_by_any_name(
    harness: PersonalHarness,
) -> None:
    mine = await phone(harness, "en-US")
    await order(harness, "en-US/rename", to="english")

    for name in ("de-DE", "englis", "en-US~1", "en-us"):
        answers = [await ask(mine, call, name) for call in NAMED]
        assert {code(answer) for answer in answers} == {"forbidden"}, name


async def test_operators_and_tasks_may_use_any_name_and_see_the_new_one(harness: PersonalHarness) -> None:
    await order(harness, "en-US/rename", to="english")

    created = await start_task(harness)  # its TOML has the former name
    again = await start_task(harness, TASK.replace('"en-US"', '"english"').replace("next-word", "other"))
    worker = await phone(harness, "english")
    answer = await worker.send(calls.CHECK_IN, wire.encode(CHECK_IN))
    devices = json.loads((await operator(harness, "GET", "/populations/en-US/devices")).body)

    assert [one["population"] for one in (created, again)] == ["english", "english"]
    assert created["spec"]["task"]["population"] == "english"
    assert wire.decode(answer.body, Assignment).task in {"next-word", "other"}
    assert [one["population"] for one in devices["items"]] == ["english"]


async def test_a_former_name_is_not_given_to_another_population(harness: PersonalHarness) -> None:
    await order(harness, "en-US/rename", to="english")

    checkpoint = Checkpoint(CONFIG, vocabulary(), weights()).to_bytes()
    for name in ("en-US", "english"):
        refused = await operator(
            harness, "PUT", f"/populations/{name}?reason=a+test", checkpoint, "application/octet-stream"
        )
        problem = json.loads(refused.body)
        assert (problem["code"], "has, or once had, the name" in problem["detail"]) == ("conflict", True)
    unknown = await operator(harness, "POST", "/populations/xx/rename", b'{"to": "yy", "reason": "a test"}')
    bad = await operator(harness, "POST", "/populations/en-US/rename", b'{"to": "a~2", "reason": "a test"}')
    assert (json.loads(unknown.body)["code"], json.loads(bad.body)["code"]) == (
        "population_unknown",
        "malformed_body",
    )


async def test_a_renamed_population_is_the_same_after_a_restart(harness: PersonalHarness) -> None:
    old = await phone(harness, "en-US")
    await order(harness, "en-US/rename", to="english")

    await harness.restart()

    assert (await ask(old, calls.RELEASE, "english")).status == 200
    assert (await enrol(harness, "english")).status == 200


async def test_nothing_of_a_phone_or_a_person_is_on_the_disk_after_a_deletion(
    harness: PersonalHarness,
) -> None:
    await start_task(harness)
    mine = await phone(harness, "en-US", ANN)
    assert (await mine.send(calls.PUT_HEAD, HEAD)).status == 200
    await mine.words("the")
    answer = await mine.send(calls.CHECK_IN, wire.encode(CHECK_IN))
    assignment = wire.decode(answer.body, Assignment)
    planted, versions = individual_bytes(harness), checkpoints(harness)
    before = harness.everything_on_disk()
    await operator(harness, "POST", "/tasks/next-word/cancel", b'{"reason": "a test"}')
    await harness.pass_time()

    done = await order(harness, "en-US/delete", confirm="en-US")

    assert done == {"name": "en-US", "id": "en-US", "is_complete": True}
    assert len(planted) >= 5
    assert all(one in before for one in planted)
    after = harness.everything_on_disk()
    assert not [one for one in planted if one in after]
    assert (versions, checkpoints(harness)) == (1, 0)
    late = await mine.send(calls.CHECK_IN, wire.encode(CHECK_IN))
    assert code(late) == "token_invalid"
    assert assignment.id.encode() not in after
    await harness.restart()
    assert code(await enrol(harness, "en-US")) == "population_unknown"


async def test_a_population_made_anew_has_its_own_model_and_lets_no_old_phone_in(
    harness: PersonalHarness,
) -> None:
    old = await phone(harness, "en-US", ANN)
    await old.send(calls.PUT_HEAD, HEAD)
    await old.words("the")
    await order(harness, "en-US/delete", confirm="en-US")
    await harness.found()

    refused = {code(await ask(old, call, "en-US")) for call in NAMED}
    new = await phone(harness, "en-US", ANN)
    release = await ask(new, calls.RELEASE, "en-US")
    head = await ask(new, calls.GET_HEAD, "en-US")
    words = await new.words("the")
    stored = await ask(new, calls.PUT_HEAD, "en-US")

    assert refused == {"token_invalid"}
    assert wire.decode(release.body, Release).population == "en-US"
    assert code(head) == "head_unknown"
    assert words
    assert stored.status == 200
    listed = json.loads((await operator(harness, "GET", "/populations")).body)["items"]
    assert [(one["name"], one["id"], one["devices"]) for one in listed] == [("en-US", "en-US~2", 1)]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"confirm": "en", "reason": "a test"}', "conflict"),
        (b'{"confirm": "", "reason": "a test"}', "malformed_body"),
        (b'{"reason": "a test"}', "malformed_body"),
        (b'{"confirm": "en-US"}', "malformed_body"),
        (b'{"confirm": "en-US", "reason": "a test", "force": true}', "malformed_body"),
        (b"en-US", "malformed_body"),
    ],
)
async def test_a_deletion_without_the_name_typed_again_is_refused(
    harness: PersonalHarness, body: bytes, problem: str
) -> None:
    refused = await operator(harness, "POST", "/populations/en-US/delete", body)

    assert json.loads(refused.body)["code"] == problem
    assert (await enrol(harness, "en-US")).status == 200


def checkpoints(harness: PersonalHarness) -> int:
    return sum(path.name == "checkpoint" for path in (harness.folder / "data").rglob("*"))


def individual_bytes(harness: PersonalHarness) -> list[bytes]:
    """What the database holds of one phone and its person, as it lies in the file."""
    (file,) = (harness.folder / "data").rglob("*.sqlite3")
    connection = sqlite3.connect(file)
    texts = connection.execute("SELECT id, user_digest FROM devices").fetchall()
    texts += connection.execute("SELECT owner FROM heads").fetchall()
    texts += connection.execute("SELECT id FROM assignments").fetchall()
    (sealed,) = connection.execute("SELECT sealed FROM heads").fetchone()
    connection.close()
    return [text.encode() for row in texts for text in row] + [sealed[:64], sealed[-64:]]

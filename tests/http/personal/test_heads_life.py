"""A head from phone to disk and back: restart, rotation, several phones, forget-me."""

from __future__ import annotations

import asyncio
import base64
import secrets
import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.http.personal.conftest import ANN, PersonalHarness, code, head_bytes
from tests.unit.compression.test_state import A_MILLION_LISTS

from keyflock_compression import encode_state
from keyflock_server.personal_models.key_ring import add_encryption_key, read_key_ring
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import Forgotten, HeadErased, HeadStored
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from pathlib import Path

HEAD = head_bytes("zoo tea xylophone", "team ten xylophone")


def sealed_rows(folder: Path) -> list[bytes]:
    connection = sqlite3.connect(folder / "data" / "keyflock.sqlite3")
    rows = [row[0] for row in connection.execute("select sealed from heads")]
    connection.close()
    return rows


async def test_a_head_survives_a_restart(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    stored = wire.decode((await phone.send(calls.PUT_HEAD, HEAD)).body, HeadStored)

    await harness.restart()

    found = await phone.send(calls.GET_HEAD)
    assert found.body == HEAD
    assert found.headers["etag"] == f'"{stored.tag.hex()}"'


async def test_a_head_survives_a_key_rotation_and_the_old_key_may_go(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    before = sealed_rows(harness.folder)
    path = harness.folder / "head_keys"
    keys = add_encryption_key(path)

    await harness.restart()
    await harness.pass_time()
    await harness.pass_time()
    lines = path.read_text().split()
    path.write_text(lines[0] + "\n")
    await harness.restart()

    assert read_key_ring(path).retired == ()
    assert (await phone.send(calls.GET_HEAD)).body == HEAD
    assert sealed_rows(harness.folder) != before
    assert keys.retired[0].id.encode() not in harness.everything_on_disk()


async def test_without_its_key_a_head_is_unreadable_and_says_which_key_is_missing(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    lost = read_key_ring(harness.folder / "head_keys").current.id
    (harness.folder / "head_keys").unlink()
    add_encryption_key(harness.folder / "head_keys")

    await harness.restart()
    await harness.pass_time()

    found = await phone.send(calls.GET_HEAD)
    assert (found.status, code(found)) == (500, ProblemCode.HEAD_UNREADABLE)
    assert lost in found.body.decode("utf-8", "replace")
    # The keyboard still gets words, and a new head may be put.
    assert len(await phone.words("the")) == 3
    assert (await phone.send(calls.PUT_HEAD, HEAD)).status == 200
    assert (await phone.send(calls.GET_HEAD)).body == HEAD


async def test_phones_of_one_user_share_a_head_and_nobody_else_sees_it(harness: PersonalHarness) -> None:
    first, second = await harness.phone(ANN), await harness.phone(ANN)
    stranger, unnamed = await harness.phone(ANN[::-1]), await harness.phone()

    await first.send(calls.PUT_HEAD, HEAD)

    assert (await second.send(calls.GET_HEAD)).body == HEAD
    for other in (stranger, unnamed):
        found = await other.send(calls.GET_HEAD)
        assert (found.status, code(found)) == (404, ProblemCode.HEAD_UNKNOWN)


async def test_of_two_phones_that_write_at_once_the_slower_learns_of_it(harness: PersonalHarness) -> None:
    first, second = await harness.phone(ANN), await harness.phone(ANN)
    etag = (await first.send(calls.PUT_HEAD, HEAD)).headers["etag"]
    faster = head_bytes("team team")
    await first.send(calls.PUT_HEAD, faster, if_match=etag)

    slower = await second.send(calls.PUT_HEAD, head_bytes("ten ten"), if_match=etag)

    assert (slower.status, code(slower)) == (412, ProblemCode.PRECONDITION_FAILED)
    assert (await second.send(calls.GET_HEAD)).body == faster


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no head",
        HEAD[:-1],
        encode_state({"version": 1}),
        encode_state({"version": 99}),
        encode_state({"version": 1, "vocabulary": "0" * 64}),
    ],
)
async def test_what_is_no_head_of_this_population_is_not_kept(harness: PersonalHarness, body: bytes) -> None:
    phone = await harness.phone(ANN)

    refused = await phone.send(calls.PUT_HEAD, body)

    assert (refused.status, code(refused)) == (422, ProblemCode.MALFORMED_HEAD)
    assert (await phone.send(calls.GET_HEAD)).status == 404


async def test_a_head_cut_off_anywhere_is_refused(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)

    answers = [await phone.send(calls.PUT_HEAD, HEAD[:at]) for at in range(len(HEAD))]

    assert {(one.status, code(one)) for one in answers} == {(422, ProblemCode.MALFORMED_HEAD)}
    assert sealed_rows(harness.folder) == []


async def test_a_head_with_any_bit_flipped_is_refused(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)

    for at in range(len(HEAD)):
        flipped = bytearray(HEAD)
        flipped[at] ^= 1 << at % 8
        answer = await phone.send(calls.PUT_HEAD, bytes(flipped))
        assert (answer.status, code(answer)) == (422, ProblemCode.MALFORMED_HEAD), at

    assert sealed_rows(harness.folder) == []


async def test_of_many_first_heads_that_come_at_once_one_is_kept(harness: PersonalHarness) -> None:
    phones = [await harness.phone(ANN) for _ in range(6)]

    answers = await asyncio.gather(*(one.send(calls.PUT_HEAD, HEAD, if_none_match="*") for one in phones))

    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412, 412, 412]
    assert len(sealed_rows(harness.folder)) == 1


async def test_a_forgotten_phones_token_opens_nothing_more(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    await phone.forget_user(ANN)

    for call, body in ((calls.PUT_HEAD, HEAD), (calls.GET_HEAD, b""), (calls.DELETE_HEAD, b"")):
        answer = await phone.send(call, body)
        assert (answer.status, code(answer)) == (401, ProblemCode.TOKEN_INVALID)
    assert sealed_rows(harness.folder) == []


async def test_a_stored_head_is_never_on_the_disk_as_it_is(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)

    everything = harness.everything_on_disk()

    assert HEAD[40:72] not in everything
    assert b"xylophone" not in everything


@pytest.mark.parametrize("way", ["delete", "forget the user", "forget the user by another phone"])
async def test_a_deleted_users_bytes_are_in_no_file(harness: PersonalHarness, way: str) -> None:
    others = [await harness.phone(secrets.token_urlsafe(16)) for _ in range(3)]
    phone, sibling = await harness.phone(ANN), await harness.phone(ANN)
    for number, one in enumerate((others[0], phone, others[1], others[2])):
        await one.send(calls.PUT_HEAD, head_bytes("zoo tea", f"ten number{number}word team"))
    await phone.send(calls.PUT_HEAD, HEAD)
    rows = set(sealed_rows(harness.folder))
    assert any(row[:24] in harness.everything_on_disk() for row in rows)

    asking = sibling if "another" in way else phone
    answer = await (asking.send(calls.DELETE_HEAD) if way == "delete" else asking.forget_user(ANN))

    kind: type[HeadErased | Forgotten] = HeadErased if way == "delete" else Forgotten
    erased = wire.decode(answer.body, kind)
    assert (erased.heads, erased.is_scrubbed) == (1, True)
    left = set(sealed_rows(harness.folder))
    everything = harness.everything_on_disk()
    assert len(rows - left) == 1
    for row in rows - left:
        # Every stretch of it, since a page may hold any part.
        assert not any(row[at : at + 16] in everything for at in range(0, len(row) - 16, 16))
    for row in left:
        assert row[:24] in everything


async def test_a_head_that_is_on_its_way_in_while_its_user_is_forgotten_goes_too(
    harness: PersonalHarness,
) -> None:
    phone, other = await harness.phone(ANN), await harness.phone(ANN)

    put, forgotten = await asyncio.gather(phone.send(calls.PUT_HEAD, HEAD), other.forget_user(ANN))

    assert put.status in {200, 401}
    assert forgotten.status == 200
    assert sealed_rows(harness.folder) == []


async def test_a_server_without_keys_still_forgets(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    row = sealed_rows(harness.folder)[0]

    await harness.restart(head_keys=None)
    off = await phone.send(calls.GET_HEAD)
    forgotten = wire.decode((await phone.forget_user(ANN)).body, Forgotten)

    assert (off.status, code(off)) == (501, ProblemCode.FEATURE_OFF)
    assert (forgotten.heads, forgotten.is_scrubbed) == (1, True)
    assert row[:24] not in harness.everything_on_disk()


async def test_a_head_survives_a_rotation_of_the_signing_key(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)
    path = harness.folder / "data" / "signing_key"
    fresh = add_encryption_key(harness.folder / "other_keys").current.secret
    line = base64.urlsafe_b64encode(fresh).rstrip(b"=").decode()

    path.write_text(f"{line}\n{path.read_text()}")
    await harness.restart()

    assert (await phone.send(calls.GET_HEAD)).body == HEAD


async def test_deleting_twice_is_deleting_once(harness: PersonalHarness) -> None:
    phone = await harness.phone(ANN)
    await phone.send(calls.PUT_HEAD, HEAD)

    answers = [wire.decode((await phone.send(calls.DELETE_HEAD)).body, HeadErased) for _ in "ab"]

    assert [answer.heads for answer in answers] == [1, 0]


async def test_what_a_phone_stored_before_it_named_its_user_is_forgotten_too(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone()
    await phone.send(calls.PUT_HEAD, HEAD)

    forgotten = wire.decode((await phone.send(calls.FORGET)).body, Forgotten)

    assert forgotten.heads == 1
    assert sealed_rows(harness.folder) == []


@pytest.mark.fault("D15")
async def test_beyond_the_space_set_aside_a_head_is_refused_and_the_one_that_is_stored_stays(
    harness: PersonalHarness,
) -> None:
    first, second = await harness.phone(ANN), await harness.phone("bU1iKrlY3n0tZc9aRx6TWh")
    await first.send(calls.PUT_HEAD, HEAD)
    room_for_one = len(sealed_rows(harness.folder)[0]) + 10
    await harness.restart(max_stored_model_bytes=room_for_one)
    larger = head_bytes("zoo tea xylophone", *(f"team ten yacht{letter}" for letter in "abcdefgh"))

    refused = [await second.send(calls.PUT_HEAD, HEAD), await first.send(calls.PUT_HEAD, larger)]
    stored = await first.send(calls.GET_HEAD)
    smaller = await first.send(calls.PUT_HEAD, head_bytes("tea"))
    await first.send(calls.DELETE_HEAD)
    after = await second.send(calls.PUT_HEAD, HEAD)

    assert len(larger) > len(HEAD) + 10
    assert [(one.status, code(one)) for one in refused] == [(507, ProblemCode.QUOTA_EXCEEDED)] * 2
    assert stored.body == HEAD
    assert (smaller.status, after.status) == (200, 200)


@pytest.mark.fault("D11")
async def test_a_few_bytes_that_would_become_a_million_lists_are_refused_before_they_do(
    harness: PersonalHarness,
) -> None:
    phone = await harness.phone(ANN)

    answers = await asyncio.gather(*(phone.send(calls.PUT_HEAD, A_MILLION_LISTS) for _ in range(20)))

    assert len(A_MILLION_LISTS) < 200
    assert {(one.status, code(one)) for one in answers} == {(422, ProblemCode.MALFORMED_HEAD)}

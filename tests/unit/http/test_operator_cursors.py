"""Cursors lead back to their place, and nothing else does."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, RoundId
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.interfaces.listings import RoundPlace

PLACE = RoundPlace(datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), RoundId("next-word~2-17"))


def test_a_cursor_leads_back_to_its_place() -> None:
    assert decode_cursor(encode_cursor(PLACE), RoundPlace) == PLACE
    assert decode_cursor(encode_cursor(DeviceId("phone-1")), DeviceId) == "phone-1"
    assert decode_cursor(encode_cursor(ModelVersion(0)), ModelVersion) == 0


def test_the_end_of_a_list_has_no_cursor_and_its_beginning_needs_none() -> None:
    assert encode_cursor(None) is None
    assert decode_cursor(None, RoundPlace) is None


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "%%%",
        "\u00e9",
        "A" * 5,
        encode_cursor("phone-1"),
        encode_cursor(["2026-03-01T12:00:00", "t-1"]),
        encode_cursor([PLACE.opened_at, "a\x00b"]),
        encode_cursor([PLACE.opened_at, "t-1", "more"]),
        base64.urlsafe_b64encode(b"[" * 10_000).decode(),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode_cursor(text, RoundPlace)

    assert refused.value.code is ProblemCode.MALFORMED_QUERY


def test_a_number_that_no_database_takes_is_refused() -> None:
    with pytest.raises(ApiError):
        decode_cursor(encode_cursor(2**31), ModelVersion)
    with pytest.raises(ApiError):
        decode_cursor(encode_cursor(-1), ModelVersion)


def test_an_instant_of_another_zone_is_the_same_instant() -> None:
    elsewhere = PLACE._replace(opened_at=PLACE.opened_at.astimezone(timezone(timedelta(hours=5))))

    assert decode_cursor(encode_cursor(elsewhere), RoundPlace) == PLACE

"""Bytes from anywhere become a typed message or a refusal that names the field, in bounded memory."""

import contextlib
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.protocol import wire
from keyflock_server.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    Conditions,
    EnrolRequest,
    Failure,
    Offer,
    Refusal,
    RefusalReason,
    Report,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode

CHECK_IN = {"protocol": 1, "app_build": 7, "locale": "en-US"}


def refusal(body: bytes, kind: type = CheckIn) -> str:
    with pytest.raises(ApiError) as caught:
        wire.decode(body, kind)
    assert caught.value.code is ProblemCode.MALFORMED_BODY
    return caught.value.detail


def test_a_message_comes_back_as_it_went() -> None:
    message = CheckIn(protocol=1, app_build=7, locale="en-US", conditions=Conditions(battery_ratio=0.5))

    assert wire.decode(wire.encode(message), CheckIn) == message


def test_defaults_do_not_travel() -> None:
    body = wire.encode(CheckIn(protocol=1, app_build=7, locale="en-US"))

    assert msgpack.unpackb(body) == CHECK_IN


def test_a_union_is_told_apart_by_its_kind() -> None:
    message = Refusal(reason=RefusalReason.TOO_SOON, return_window=ReturnWindow(min_s=1.0, max_s=2.0))

    assert wire.decode(wire.encode(message), CheckInAnswer) == message  # type: ignore[arg-type]  # a union of types


def test_unknown_fields_are_ignored() -> None:
    body = msgpack.packb({**CHECK_IN, "colour": "green", "nested": {"a": [1, {"b": b"\x00"}]}})

    assert wire.decode(body, CheckIn) == CheckIn(protocol=1, app_build=7, locale="en-US")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"protocol": "1"}, "`$.protocol`"),
        ({"app_build": -1}, "`$.app_build`"),
        ({"app_build": 2**31}, "`$.app_build`"),
        ({"locale": "no spaces please"}, "`$.locale`"),
        ({"conditions": {"battery_ratio": 1.5}}, "`$.conditions.battery_ratio`"),
        ({"conditions": {"battery_ratio": float("nan")}}, "`$.conditions.battery_ratio`"),
        ({"conditions": {"thermal_status": 7}}, "`$.conditions.thermal_status`"),
        ({"capabilities": {"codecs": ["x"] * 17}}, "`$.capabilities.codecs`"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], where: str) -> None:
    assert where in refusal(msgpack.packb({**CHECK_IN, **fields}))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(loss: float) -> None:
    detail = refusal(msgpack.packb({"delta": b"", "examples": 1, "loss_after": loss}), Report)

    assert "finite number" in detail
    assert "`$.loss_after`" in detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x81",
        b"\xc1",
        b"\x90",
        b"\xc0",
        b"\x80\x80",
        b"\x81\x01\x02",
        b"\x81\xa1x\xc1",
        b"\x81\xa6locale\xa2\xff\xff",
        b"\x81\xa1x" + b"\x91" * 60_000,
        b"\x81\xa1x\xdf\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xaccapabilities\x81\xa6codecs\xdd\xff\xff\xff\xff",
        b"\x81\xabattestation\xc6\xff\xff\xff\xff",
    ],
)
def test_garbage_is_a_malformed_body(body: bytes) -> None:
    assert refusal(body)
    assert refusal(body, EnrolRequest)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(body: bytes) -> None:
    for kind in (CheckIn, EnrolRequest, Report):
        with contextlib.suppress(ApiError):
            wire.decode(body, kind)


def test_a_bomb_in_an_unknown_field_takes_no_memory() -> None:
    thousand_empty_arrays = b"\xdc\x03\xe8" + b"\x90" * 1000
    body = b"\x81\xa4bomb\xdc\x03\xe8" + thousand_empty_arrays * 1000

    tracemalloc.start()
    refusal(body, Report)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 65_536


def test_a_very_deep_structure_is_refused_also_when_it_is_already_decoded() -> None:
    value: object = {}
    for _ in range(100_000):
        value = [value]

    with pytest.raises(ApiError):
        wire.structure({"protocol": value}, CheckIn)
    while isinstance(value, list) and value:
        value = value.pop()  # undone by hand, so that freeing it does not recurse


LIMIT = 65_536


def bulky(delta_bytes: int, beside: bytes = b"", before: bytes = b"") -> bytes:
    """A report with a delta so long, and unknown fields before and after it."""
    head = bytes([0x82 + bool(beside) + bool(before)])
    delta = b"\xa5delta\xc6" + delta_bytes.to_bytes(4, "big") + bytes(delta_bytes)
    return head + before + b"\xa8examples\x03" + delta + beside


def of_nils(count: int) -> bytes:
    """An unknown field with so many items, a byte each."""
    return b"\xa1x\xdd" + count.to_bytes(4, "big") + b"\xc0" * count


@pytest.mark.fault("D11")
@pytest.mark.parametrize("delta_bytes", [0, 3, LIMIT, 16_000_000])
def test_a_report_may_be_as_large_as_its_delta(delta_bytes: int) -> None:
    report = wire.decode_bulky(bulky(delta_bytes), Report, "delta")

    assert (len(report.delta), report.examples) == (delta_bytes, 3)


@pytest.mark.fault("D11")
@pytest.mark.parametrize("delta_bytes", [10, 200_000])
def test_beside_its_delta_a_report_is_as_small_as_any_message(delta_bytes: int) -> None:
    frame = len(bulky(delta_bytes, of_nils(0))) - delta_bytes
    fits, beyond = of_nils(LIMIT - frame), of_nils(LIMIT - frame + 1)

    for report in (bulky(delta_bytes, beside=fits), bulky(delta_bytes, before=fits)):
        if delta_bytes > LIMIT or len(report) <= LIMIT:
            assert wire.decode_bulky(report, Report, "delta").examples == 3
    for report in (bulky(200_000, beside=beyond), bulky(200_000, before=beyond)):
        with pytest.raises(ApiError) as caught:
            wire.decode_bulky(report, Report, "delta")
        assert caught.value.code is ProblemCode.MALFORMED_BODY


@pytest.mark.fault("D11")
@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa8examples\x01" + of_nils(1_000_000),
        b"\x82\xa1y\xbe\xa5delta\xc6\x00\x0f\x00\x00" + b"a" * 20 + of_nils(1_000_000),
        b"\x81\xa1x" + b"\x91" * 1_000_000 + b"\x00",
        b"\xdf\x00\x0f\x00\x00" + b"\xa1x\x01" * 0x0F0000,
        b"\x81\xa5delta" + b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0x0F0000,
        b"\x81\xa5delta\xdb\x00\x0f\x00\x00" + b"a" * 0x0F0000,
        b"\xc0" * 1_000_000,
        b"\x81\xc1" + bytes(1_000_000),
    ],
    ids=["unknown", "a lie in a string", "nested", "keys", "no binary", "a string", "no map", "no msgpack"],
)
def test_what_would_take_long_to_skip_is_refused_without_being_looked_at(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "decode", lambda *_: pytest.fail("it was decoded"))

    with pytest.raises(ApiError) as caught:
        wire.decode_bulky(body, Report, "delta")

    assert caught.value.code is ProblemCode.MALFORMED_BODY


class Viewed(Report, frozen=True, kw_only=True):
    """A report whose delta may be a view of its body."""

    delta: memoryview  # type: ignore[assignment]  # as the server receives it


@pytest.mark.parametrize(
    ("before", "beside", "is_view"),
    [
        (b"", b"", True),
        (b"", of_nils(900), True),
        (b"", of_nils(1_100), False),
        (b"\xa5delta\xc6" + (15_000_000).to_bytes(4, "big") + bytes(15_000_000), b"", False),
    ],
    ids=["nothing else", "little else", "much else", "another delta before it, of which the last counts"],
)
def test_a_delta_keeps_little_else_of_its_body_in_memory(before: bytes, beside: bytes, is_view: bool) -> None:
    body = bulky(30_000, beside=beside, before=before)

    delta = wire.decode_bulky(body, Viewed, "delta").delta

    assert bytes(delta) == bytes(30_000)
    assert (delta.obj is body) == is_view
    assert is_view or memoryview(delta.obj).nbytes == 30_000


BOUNDS: list[tuple[type, dict[str, object], str, list[object], list[object]]] = [
    (
        CheckIn,
        CHECK_IN,
        "locale",
        ["en", "en-US", "zh-Hant-TW", "sr_Latn", "a" * 35],
        ["e", "a" * 36, "en-", "-en", "en--US", "en US", "en-US\n", "dé", "", None],
    ),
    (
        EnrolRequest,
        CHECK_IN | {"population": "en-US"},
        "user",
        ["u", "x" * 4_096, "ü" * 4_096, None],
        ["", "x" * 4_097, 7, b"bytes"],
    ),
    (
        EnrolRequest,
        CHECK_IN | {"population": "en-US"},
        "tags",
        [[], ["a"] * 16, ["a" * 32], ["keyboard-v2", "0.9_b"]],
        [["a"] * 17, ["a" * 33], [""], ["A"], ["-a"], ["a b"], ["a\n"]],
    ),
    (
        Report,
        {"delta": b"", "examples": 1},
        "session_shape",
        ["", "-v[]+^", "-v[!", "*#+" * 10, "-" * 32],
        ["-" * 33, "x", "-v []", "-\n", "(", None],
    ),
    (Failure, {"cause": "interrupted"}, "session_shape", ["-v[!"], ["-" * 33, "?"]),
    (Offer, {"model_version": 7}, "size_bytes", [0, 2**31 - 1], [-1, 2**31, 3.0, "3", True, None]),
    (Offer, {"size_bytes": 7}, "model_version", [0, 2**31 - 1], [-1, 2**31, 2**53, 7.0]),
    (Report, {"delta": b""}, "examples", [1, 2**31 - 1], [0, -1, 2**31, 1.0]),
    (Report, {"delta": b"", "examples": 1}, "train_s", [0, 0.0, 3, 12.5, None], [-1, float("inf"), "3"]),
    (CheckIn, CHECK_IN, "upload_budget_bytes", [512, 2**31 - 1, None], [511, 2**31, 512.0]),
    (CheckIn, CHECK_IN, "examples", [0, 2**31 - 1], [-1, 3.0, 2**31]),
    (CheckIn, CHECK_IN, "app_build", [0, 2**31 - 1], [7.0, -1]),
]


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    ("kind", "others", "name", "taken", "refused"),
    BOUNDS,
    ids=[f"{one[0].__name__}.{one[2]}" for one in BOUNDS],
)
def test_what_the_page_states_of_a_field_is_what_is_taken(
    kind: type, others: dict[str, object], name: str, taken: list[object], refused: list[object]
) -> None:
    for value in taken:
        read: object = wire.decode(msgpack.packb({**others, name: value}), kind)
        assert getattr(read, name) == (tuple(value) if isinstance(value, list) else value)
    for value in refused:
        assert f"`$.{name}" in refusal(msgpack.packb({**others, name: value}), kind), value


@pytest.mark.fault("F15")
def test_the_order_of_a_messages_keys_means_nothing() -> None:
    fields = {**CHECK_IN, "examples": 3, "conditions": {"is_idle": False, "battery_ratio": 1}}

    turned = dict(reversed(fields.items()))

    assert wire.decode(msgpack.packb(turned), CheckIn) == wire.decode(msgpack.packb(fields), CheckIn)

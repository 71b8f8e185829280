"""A model over HTTP: whole, as a delta to what the phone has, or not at all (RFC 9110 and RFC 3229)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from keyflock_server.protocol import calls
from keyflock_server.protocol.plans import ModelWeights

if TYPE_CHECKING:
    from tests.http.conftest import HttpAnswer, SdkPort

BASE = hashlib.sha256(b"what the phone has").digest()
TAG = f'"{BASE.hex()}"'


@pytest.fixture
def sdk_port(sdk_port: SdkPort) -> SdkPort:
    sdk_port.service.steps = {BASE: b"few bytes"}
    return sdk_port


def sent(sdk_port: SdkPort, kind: str) -> tuple[float, float]:
    """How many downloads of this kind, and their bytes."""
    value = sdk_port.metrics.registry.get_sample_value
    return (
        value("keyflock_model_downloads_total", {"kind": kind}) or 0.0,
        value("keyflock_model_bytes_total", {"kind": kind}) or 0.0,
    )


def assert_whole(sdk_port: SdkPort, answer: HttpAnswer) -> None:
    assert (answer.status, answer.body) == (200, sdk_port.model)
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert "IM" not in answer.headers
    assert "Delta-Base" not in answer.headers


async def test_a_phone_that_has_an_earlier_version_gets_the_delta(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.MODEL, A_IM="keyflock-delta", If_None_Match=f'"other", {TAG}')

    assert (answer.status, answer.body) == (226, b"few bytes")
    assert answer.headers["IM"] == "keyflock-delta"
    assert answer.headers["Delta-Base"] == TAG
    assert answer.headers["ETag"] == f'"{hashlib.sha256(sdk_port.model).hexdigest()}"'
    assert answer.headers["Content-Type"] == "application/vnd.keyflock.model"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "authorization, a-im"


async def test_both_addresses_give_deltas_of_their_own_weights(sdk_port: SdkPort) -> None:
    for call in (calls.MODEL, calls.RELEASED_MODEL):
        assert (await sdk_port.send(call, A_IM="keyflock-delta", If_None_Match=TAG)).status == 226

    asked = [what for name, what in sdk_port.service.calls if name == "model_delta"]
    assert asked == [
        (sdk_port.phone.population, 7, ModelWeights.TRAINING, {BASE}),
        (sdk_port.phone.population, 7, ModelWeights.RELEASED, {BASE}),
    ]


async def test_a_phone_that_has_this_very_version_gets_nothing(sdk_port: SdkPort) -> None:
    mine = f'"{hashlib.sha256(sdk_port.model).hexdigest()}"'

    answer = await sdk_port.send(calls.MODEL, A_IM="keyflock-delta", If_None_Match=f"{TAG}, {mine}")

    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == mine
    assert answer.headers["Vary"] == "authorization, a-im"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"If_None_Match": TAG},
        {"A_IM": "keyflock-delta"},
        {"A_IM": "vcdiff, gzip", "If_None_Match": TAG},
        {"A_IM": "keyflock-delta;q=0", "If_None_Match": TAG},
        {"A_IM": "keyflock-delta ; q = 0.000", "If_None_Match": TAG},
        {"A_IM": "keyflock-delta", "If_None_Match": f"W/{TAG}"},
        {"A_IM": "keyflock-delta", "If_None_Match": BASE.hex()},
        {"A_IM": "keyflock-delta", "If_None_Match": '"00"'},
    ],
    ids=repr,
)
async def test_who_asks_for_no_delta_or_has_no_base_gets_the_whole(
    sdk_port: SdkPort, asked: dict[str, str]
) -> None:
    assert_whole(sdk_port, await sdk_port.send(calls.MODEL, **asked))


@pytest.mark.parametrize("asked", ["keyflock-delta;q=0.5", "vcdiff, Keyflock-Delta", "keyflock-delta;q=1"])
async def test_a_phone_may_understand_other_manipulations_too(sdk_port: SdkPort, asked: str) -> None:
    assert (await sdk_port.send(calls.MODEL, A_IM=asked, If_None_Match=TAG)).status == 226


@pytest.mark.parametrize(
    "garbage",
    [
        ",".join(f'"{number:064x}"' for number in range(100)),
        ',,,;;;""\'\\,W/,W/W/',
        '"' * 7_000,
        "\xff\xfe, \x80",
    ],
    ids=["many", "signs", "quotes", "bytes"],
)
async def test_a_hostile_list_of_tags_costs_a_whole_download_and_no_more(
    sdk_port: SdkPort, garbage: str
) -> None:
    assert_whole(sdk_port, await sdk_port.send(calls.MODEL, A_IM="keyflock-delta", If_None_Match=garbage))


async def test_ten_thousand_tags_are_answered_or_refused_before_anyone_looks(sdk_port: SdkPort) -> None:
    tags = ",".join(f'"{number:064x}"' for number in range(10_000))

    answer = await sdk_port.send(calls.MODEL, A_IM="keyflock-delta", If_None_Match=tags)

    # The listener takes no header of that length; no phone has a use for one.
    assert answer.status == 400
    assert sdk_port.service.calls == []
    assert_whole(sdk_port, await sdk_port.send(calls.MODEL))


async def test_downloads_are_counted_by_kind(sdk_port: SdkPort) -> None:
    whole = await sdk_port.send(calls.MODEL)
    await sdk_port.send(calls.MODEL, If_None_Match=whole.headers["ETag"])
    await sdk_port.send(calls.MODEL, A_IM="keyflock-delta", If_None_Match=TAG)
    await sdk_port.send(calls.RELEASED_MODEL, A_IM="keyflock-delta", If_None_Match=TAG)

    assert sent(sdk_port, "whole") == (1, len(sdk_port.model))
    assert sent(sdk_port, "not_modified") == (1, 0)
    assert sent(sdk_port, "delta") == (2, 2 * len(b"few bytes"))

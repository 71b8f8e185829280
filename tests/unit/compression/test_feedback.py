"""What a report lost comes with the next one, for a while."""

from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest

from keyflock_compression import DeadzoneRowsSpec, SpecError, WrongLayout, decode, encode, parse_spec
from keyflock_compression.feedback import Residual, encode_with_feedback


@dataclass(frozen=True)
class Flat:
    names: tuple[str, ...] = ("embedding",)
    shapes: tuple[tuple[int, ...], ...] = ((50, 40),)
    offsets: tuple[int, ...] = (0,)
    size: int = 2_000
    digest: bytes = b"f" * 16


LAYOUT = Flat()
SPEC = DeadzoneRowsSpec(step_rms=4.0, feedback_s=60.0)
DELTA = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)


def lost(after: tuple[bytes, Residual | None]) -> Residual:
    residual = after[1]
    assert residual is not None
    return residual


def test_without_feedback_it_is_plain_encoding_and_nothing_is_kept() -> None:
    spec = msgspec.structs.replace(SPEC, feedback_s=None)
    before = lost(encode_with_feedback(DELTA, LAYOUT, SPEC, None, seed=1, now_s=0.0))

    container, residual = encode_with_feedback(DELTA, LAYOUT, spec, before, seed=1, now_s=1.0)

    assert container == encode(DELTA, LAYOUT, spec, seed=1)
    assert residual is None


def test_what_is_lost_stays_bounded_however_many_reports_there_are() -> None:
    spec = msgspec.structs.replace(SPEC, step_rms=None, target_nmse=0.5)
    decoded_sum, residual = np.zeros(LAYOUT.size, np.float32), None
    for number in range(20):
        now_s = float(number)
        container, residual = encode_with_feedback(DELTA, LAYOUT, spec, residual, seed=0, now_s=now_s)
        decoded_sum += decode(container, LAYOUT).dense()

    missing = float(np.linalg.norm(20 * DELTA - decoded_sum) / np.linalg.norm(DELTA))
    alone = decode(encode(DELTA, LAYOUT, spec, seed=0), LAYOUT).dense()
    # sqrt(0.5) of a delta and what was left before it: at most sqrt(0.5) / (1 - sqrt(0.5)) of a delta in all;
    # a hundredth more for the bytes that it is kept in.
    assert missing <= 2.4143 * 1.01
    assert float(np.linalg.norm(20 * (DELTA - alone)) / np.linalg.norm(DELTA)) > 10


@pytest.mark.parametrize("age_s", [-1.0, 60.1])
def test_what_is_too_old_or_from_the_future_is_left_out(age_s: float) -> None:
    before = lost(encode_with_feedback(DELTA, LAYOUT, SPEC, None, seed=0, now_s=100.0))

    container, _ = encode_with_feedback(DELTA, LAYOUT, SPEC, before, seed=0, now_s=100.0 + age_s)

    assert container == encode(DELTA, LAYOUT, SPEC, seed=0)


def test_what_was_lost_of_another_model_or_is_damaged_is_left_out() -> None:
    before = lost(encode_with_feedback(DELTA, LAYOUT, SPEC, None, seed=0, now_s=0.0))
    for layout, residual_before in (
        (replace(LAYOUT, digest=b"g" * 16), before.container),
        (LAYOUT, before.container[:-1] + b"x"),
    ):
        container, _ = encode_with_feedback(
            DELTA, layout, SPEC, Residual(residual_before, 0.0), seed=0, now_s=1.0
        )

        assert container == encode(DELTA, layout, SPEC, seed=0)


@pytest.mark.parametrize("size", [1, 1_999])
def test_a_delta_of_another_size_is_refused_before_anything_is_added(size: int) -> None:
    with pytest.raises(WrongLayout):
        encode_with_feedback(np.ones(size, np.float32), LAYOUT, SPEC, None, seed=0, now_s=0.0)


@pytest.mark.parametrize("feedback_s", [0.0, -1.0, float("nan"), 4e7, True])
def test_a_time_that_cannot_be_is_refused(feedback_s: float) -> None:
    with pytest.raises(SpecError, match="feedback_s"):
        parse_spec(SPEC.to_wire() | {"feedback_s": feedback_s})

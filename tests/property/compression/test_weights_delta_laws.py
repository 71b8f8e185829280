"""What deltas between models promise, whatever the models and whatever the bytes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keyflock_compression import CodecError, apply_weights_delta, content_digest, encode_weights_delta
from keyflock_compression.row_weights import RowWeights

LAYOUT_DIGEST = bytes(16)


@st.composite
def models(draw: st.DrawFn, size: int = 300, rows: int = 7) -> bytes:
    """Any numbers and any scales that a download may have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = rng.integers(-128, 128, size) * (rng.random(size) < draw(st.floats(0, 1)))
    scales = np.exp(rng.normal(0, draw(st.sampled_from([0.0, 1e-3, 10.0])), rows)) * (rng.random(rows) < 0.8)
    return RowWeights(LAYOUT_DIGEST, scales.astype(np.float32), whole.astype(np.int8)).to_container()


@given(before=models(), after=models())
def test_a_delta_is_exact_and_deterministic(before: bytes, after: bytes) -> None:
    delta = encode_weights_delta(after, before)

    assert delta == encode_weights_delta(after, before)
    assert apply_weights_delta(delta, before, result=content_digest(after)) == after


@given(before=models(), after=models(), other=models())
def test_a_base_that_is_not_the_one_never_gives_a_model_in_silence(
    before: bytes, after: bytes, other: bytes
) -> None:
    try:
        made = apply_weights_delta(encode_weights_delta(after, before), other)
    except CodecError:
        assert content_digest(other) != content_digest(before)
    else:
        assert made == after


@given(data=st.binary(max_size=400), base=models())
def test_any_bytes_end_in_an_error_of_the_family(data: bytes, base: bytes) -> None:
    try:
        apply_weights_delta(data, base)
    except CodecError:
        return
    raise AssertionError("random bytes were taken for a delta")


@given(before=models(), after=models(), data=st.data())
def test_a_delta_that_was_cut_is_refused(before: bytes, after: bytes, data: st.DataObject) -> None:
    delta = encode_weights_delta(after, before)
    cut = data.draw(st.integers(0, len(delta) - 1))

    try:
        apply_weights_delta(delta[:cut], before)
    except CodecError:
        return
    raise AssertionError("half a delta was taken for one")

"""As for the codecs: nothing is found in what applies deltas, and a bug that is planted there is."""

from collections import Counter

import pytest
from tests.fuzz.compression.weights_delta_fuzzer import fuzz

from keyflock_compression import apply_weights_delta
from keyflock_compression.row_weights import RowWeights


def test_thousands_of_hostile_deltas_break_no_promise() -> None:
    outcomes: Counter[str] = Counter()

    assert fuzz(4_000, seed=1, outcomes=outcomes) is None

    assert outcomes["malformed"] > 1_000
    assert outcomes["wrong_base"] > 100
    assert outcomes["model"] > 50
    assert {"corrupted", "wrong_layout"} <= set(outcomes)


def test_a_phone_that_does_not_look_at_the_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything(bytes):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    def applied(delta: bytes, base: bytes) -> bytes:
        with monkeypatch.context() as patched:
            patched.setattr(RowWeights, "content_digest", property(lambda _: Anything(32)))
            return apply_weights_delta(delta, base)

    finding = fuzz(4_000, seed=1, apply=applied)

    assert finding is not None
    assert "another model" in finding.what

"""Deltas that were encoded before a run are those that the server's assignments ask for."""

import numpy as np

from keyflock_compression import DenseSpec, Float32Spec, RandmaskSpec, decode
from keyflock_load_tests.payload import VARIANTS, ReadyDeltas
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3))


def test_a_codec_that_draws_from_the_seed_is_encoded_for_each_seed_and_others_once() -> None:
    deltas = ReadyDeltas(LAYOUT, np.ones(LAYOUT.size, np.float32))
    drawn, plain = RandmaskSpec(keep_ratio=0.1), DenseSpec()

    for seed in (5, 6, 5):
        assert decode(deltas.in_codec(drawn.to_wire(), seed), LAYOUT, spec=drawn, seed=seed).size

    assert deltas.in_codec(drawn.to_wire(), 5) is not deltas.in_codec(drawn.to_wire(), 6)
    assert deltas.in_codec(plain.to_wire(), 5) is deltas.in_codec(plain.to_wire(), 5 + VARIANTS)


def test_phones_send_different_numbers_so_that_their_reports_are_distinct() -> None:
    deltas = ReadyDeltas(LAYOUT, np.ones(LAYOUT.size, np.float32))
    plain = Float32Spec()

    sent = [
        decode(deltas.in_codec(plain.to_wire(), seed), LAYOUT, spec=plain).dense() for seed in range(VARIANTS)
    ]

    assert len({one.tobytes() for one in sent}) == VARIANTS
    assert min(one[0] for one in sent) > 0.98

"""Bytes from anywhere: a value or the package's own error, and nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError, build_vocabulary

CONFIG = ModelConfig(vocabulary_size=6, embedding_size=2, hidden_size=3)
CHECKPOINT = Checkpoint(
    CONFIG,
    build_vocabulary(["a", "b"], [0.5, 0.4], oov=0.1, eos=0.1),
    np.arange(CONFIG.parameter_count, dtype=np.float32),
    {"made_by": "a test"},
)
DOCUMENT = CHECKPOINT.to_bytes()


CODES = {"not_safetensors", "metadata", "config", "vocabulary", "weights", "non_finite"}


def read_checkpoint(document: bytes) -> Checkpoint | str:
    """The checkpoint, or the code of the refusal."""
    try:
        return Checkpoint.from_bytes(document)
    except CheckpointError as refusal:
        return refusal.code


def read_vocabulary(document: bytes) -> Vocabulary | str:
    """The vocabulary, or why there is none."""
    try:
        return Vocabulary.from_bytes(document)
    except VocabularyError as refusal:
        return str(refusal)


@given(st.binary(max_size=200))
def test_no_bytes_surprise_a_reader(document: bytes) -> None:
    assert read_checkpoint(document) in CODES
    assert read_vocabulary(document)


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_a_flipped_byte_gives_a_checkpoint_or_a_refusal(place: int, flip: int) -> None:
    damaged = bytearray(DOCUMENT)
    damaged[place] ^= flip

    found = read_checkpoint(bytes(damaged))

    if isinstance(found, Checkpoint):
        assert found.config == CONFIG
        assert np.isfinite(found.weights).all()
    else:
        assert found in CODES


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=5
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_layout_gives_its_vector_back(shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    layout = ParamLayout(names=tuple(shapes), shapes=tuple(shapes.values()))
    vector = np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)

    again = layout.flatten(layout.unflatten(vector))

    assert np.array_equal(again, vector)
    assert layout.size == sum(int(np.prod(shape)) for shape in shapes.values())

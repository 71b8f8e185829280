import json
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load, save

from keyflock_models.arrays import F32
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.config import ModelConfig
from keyflock_models.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def checkpoint(tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary) -> Checkpoint:
    return Checkpoint(tiny, toy_vocabulary, toy_weights, {"pretrained_on": "nothing", "seed": "7"})


def test_bytes_bring_back_the_same_checkpoint(checkpoint: Checkpoint) -> None:
    again = Checkpoint.from_bytes(checkpoint.to_bytes())

    assert again.config == checkpoint.config
    assert again.vocabulary.words == checkpoint.vocabulary.words
    assert again.vocabulary_digest == checkpoint.vocabulary_digest
    assert np.array_equal(again.weights, checkpoint.weights)
    assert again.lineage == {"pretrained_on": "nothing", "seed": "7"}


def test_equal_checkpoints_give_equal_bytes(checkpoint: Checkpoint) -> None:
    assert Checkpoint.from_bytes(checkpoint.to_bytes()).to_bytes() == checkpoint.to_bytes()


def test_any_safetensors_reader_finds_one_tensor_a_parameter(checkpoint: Checkpoint) -> None:
    tensors = load(checkpoint.to_bytes())

    assert tensors["params.embedding"].shape == (64, 8)
    assert sorted(tensors) == [
        "params.embedding",
        "params.gate_bias",
        "params.input_kernel",
        "params.output_bias",
        "params.projection",
        "params.recurrent_kernel",
        "vocabulary.log_frequencies",
        "vocabulary.words",
    ]


Tensors = dict[str, np.ndarray]


@pytest.fixture
def rewritten(checkpoint: Checkpoint) -> Callable[..., bytes]:
    """The checkpoint's bytes with some metadata and tensors replaced, or left out (None)."""

    def rewrite(tensors: dict[str, np.ndarray | None] | None = None, **metadata: object) -> bytes:
        document = checkpoint.to_bytes()
        header = json.loads(document[8 : 8 + int.from_bytes(document[:8], "little")])
        about = json.loads(header["__metadata__"]["keyflock"]) | metadata
        present = {k: v for k, v in (load(document) | (tensors or {})).items() if v is not None}
        return bytes(save(present, {"keyflock": json.dumps(about)}))

    return rewrite


def refusal(document: bytes) -> tuple[str, str]:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.from_bytes(document)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("document", [b"", b"garbage", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_no_document_are_refused(document: bytes) -> None:
    assert refusal(document)[0] == "not_safetensors"


def test_a_truncated_checkpoint_is_refused(checkpoint: Checkpoint) -> None:
    document = checkpoint.to_bytes()

    assert {refusal(document[:length])[0] for length in (1, 7, 8, 100, len(document) - 1)} == {
        "not_safetensors"
    }


def test_a_strangers_document_is_refused_for_its_metadata() -> None:
    assert refusal(save({"a": np.zeros(2, np.float32)}))[0] == "metadata"
    assert refusal(save({"a": np.zeros(2, np.float32)}, {"keyflock": "["}))[0] == "metadata"
    assert refusal(save({"a": np.zeros(2, np.float32)}, {"keyflock": "[" * 100_000}))[0] == "metadata"
    assert refusal(save({"a": np.zeros(2, np.float32)}, {"keyflock": "[]"}))[0] == "metadata"


def test_each_broken_promise_has_its_code(rewritten: Callable[..., bytes]) -> None:
    size = {"vocabulary_size": 64, "embedding_size": 8, "hidden_size": 12}

    assert refusal(rewritten(format=2)) == ("metadata", "another format of checkpoint; this release reads 1")
    assert refusal(rewritten(lineage=[]))[0] == "metadata"
    assert refusal(rewritten(config=[]))[0] == "config"
    assert refusal(rewritten(config=size | {"hidden_size": -1}))[0] == "config"
    assert refusal(rewritten(config=size | {"hidden_size": 13}))[0] == "weights"
    assert refusal(rewritten(config=size | {"vocabulary_size": 65}))[0] == "weights"
    assert refusal(rewritten(vocabulary_digest="0"))[0] == "vocabulary"
    assert refusal(rewritten({"vocabulary.words": None}))[0] == "vocabulary"
    assert refusal(rewritten({"params.projection": None}))[0] == "weights"
    assert refusal(rewritten({"params.extra": np.zeros(1, np.float32)}))[0] == "weights"
    assert refusal(rewritten({"params.output_bias": np.zeros(64, np.float64)}))[0] == "weights"
    assert refusal(rewritten({"params.output_bias": np.full(64, np.nan, np.float32)}))[0] == "non_finite"


def test_parts_that_do_not_belong_together_are_refused(
    tiny: ModelConfig, toy_weights: F32, toy_vocabulary: Vocabulary
) -> None:
    smaller = Vocabulary(toy_vocabulary.words[:-1], toy_vocabulary.log_frequencies[:-1])

    with pytest.raises(CheckpointError, match="63 words, but the configuration says 64"):
        Checkpoint(tiny, smaller, toy_weights)
    with pytest.raises(CheckpointError, match="float32 weights are needed"):
        Checkpoint(tiny, toy_vocabulary, toy_weights[1:])

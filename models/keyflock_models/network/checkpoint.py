"""The checkpoint: a model as one safetensors document with weights, vocabulary, lineage and anchor text.

There is one tensor per parameter, so that any safetensors reader can use it. The vocabulary is stored with
the weights, because weights are worth nothing without their words, and so is the anchor text on which
versions are measured. The document's metadata holds a single entry, `keyflock`, with JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keyflock_models.arrays import F32, I32
from keyflock_models.network.anchor import anchor_problem
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError

_METADATA_KEY: Final = "keyflock"
_FORMAT: Final = 1
_PARAM_PREFIX: Final = "params."
_ANCHOR: Final = "anchor.rows"


class CheckpointError(ValueError):
    """Bytes are no checkpoint of ours; `code` names the part that is wrong, and the message says how."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        #: "not_safetensors", "metadata", "config", "vocabulary", "weights", "non_finite" or "anchor".
        self.code = code


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model that can be served, trained on or measured.

    Raises:
        CheckpointError: weights, configuration and vocabulary do not belong together.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    #: Shape (P,), as `ParamLayout.for_config(config)` lays them out; finite.
    weights: F32
    #: The model's origin, as free text by key, such as "pretrained_on".
    lineage: Mapping[str, str] = field(default_factory=dict)
    #: Public text that nobody trains on, as token ids, shape (N, L + 1); None: the model has none.
    anchor: I32 | None = None

    def __post_init__(self) -> None:
        if len(self.vocabulary) != self.config.vocabulary_size:
            msg = f"{len(self.vocabulary)} words, but the configuration says {self.config.vocabulary_size}"
            raise CheckpointError("vocabulary", msg)
        if self.weights.shape != (self.config.parameter_count,) or self.weights.dtype != np.float32:
            given = f"{self.weights.dtype} {self.weights.shape}"
            msg = f"{self.config.parameter_count} float32 weights are needed, not {given}"
            raise CheckpointError("weights", msg)
        if not np.isfinite(self.weights).all():
            raise CheckpointError("non_finite", "a weight is infinite or no number")
        if self.anchor is not None and (problem := anchor_problem(self.anchor, self.vocabulary)):
            raise CheckpointError("anchor", problem)

    @property
    def vocabulary_digest(self) -> str:
        """The digest that identifies the words behind the model's ids."""
        return self.vocabulary.digest

    def to_bytes(self) -> bytes:
        """Return the checkpoint as a safetensors document.

        Guarantees:
            Equal checkpoints give equal bytes.
        """
        about = {
            "format": _FORMAT,
            "config": self.config.to_dict(),
            "vocabulary_digest": self.vocabulary_digest,
            "lineage": dict(self.lineage),
        }
        params = ParamLayout.for_config(self.config).unflatten(self.weights)
        anchor = {} if self.anchor is None else {_ANCHOR: self.anchor}
        tensors = (
            {f"{_PARAM_PREFIX}{name}": tensor for name, tensor in params.items()}
            | self.vocabulary.to_tensors()
            | anchor
        )
        return bytes(save(tensors, {_METADATA_KEY: json.dumps(about, sort_keys=True)}))

    @classmethod
    def from_bytes(cls, document: bytes) -> "Checkpoint":
        """Restore what `to_bytes` returned.

        Guarantees:
            Any bytes give a checkpoint or a CheckpointError, in time and memory proportional to their length.
        Raises:
            CheckpointError: the bytes are no checkpoint; code and message name the reason.
        """
        try:
            tensors = load(document)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError("not_safetensors", "not a safetensors document") from error
        config, lineage, digest = _read_metadata(document)
        try:
            vocabulary = Vocabulary.from_tensors(tensors)
        except VocabularyError as error:
            raise CheckpointError("vocabulary", "no vocabulary in the checkpoint") from error
        if vocabulary.digest != digest:
            raise CheckpointError("vocabulary", "the words are not those whose digest the metadata holds")
        params = {
            name.removeprefix(_PARAM_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(_PARAM_PREFIX) and tensor.dtype == np.float32
        }
        try:
            weights = ParamLayout.for_config(config).flatten(params)
        except ValueError as error:
            raise CheckpointError("weights", "the weights do not fit the configuration") from error
        return cls(config, vocabulary, weights, lineage, tensors.get(_ANCHOR))


def _read_metadata(document: bytes) -> tuple[ModelConfig, dict[str, str], str]:
    """Read config, lineage and digest from the header of a document that safetensors has accepted."""
    header = json.loads(document[8 : 8 + int.from_bytes(document[:8], "little")])
    try:
        about = json.loads(header["__metadata__"][_METADATA_KEY])
        written, config, digest = about["format"], about["config"], about["vocabulary_digest"]
        lineage = {str(key): str(value) for key, value in about["lineage"].items()}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError("metadata", "the metadata is not ours") from error
    if written != _FORMAT:
        raise CheckpointError("metadata", f"another format of checkpoint; this release reads {_FORMAT}")
    try:
        return ModelConfig.from_dict(config), lineage, str(digest)
    except (TypeError, ValueError) as error:
        raise CheckpointError("config", "the configuration is none of this release's networks") from error

"""The layout of a model's parameters in one flat float32 vector, for code that only moves vectors."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from keyflock_models.arrays import F32
from keyflock_models.network.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ParamLayout:
    """The names, shapes and offsets of the tensors in a flat vector of `size` numbers.

    Guarantees:
        `unflatten(flatten(params))` has the same bits. The digest depends on names, shapes and order alone,
        so two processes that agree on it agree on where every number lies.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    #: Where each tensor begins in the vector.
    offsets: tuple[int, ...] = field(init=False)
    #: Length of the vector.
    size: int = field(init=False)
    #: Names and shapes as JSON, `[[names…],[[shape…]…]]` without spaces.
    text: str = field(init=False)
    #: 16 bytes that identify the layout on the wire: the beginning of the SHA-256 of `text`.
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names):
            msg = "a layout needs one shape for each of its names, and no name twice"
            raise ValueError(msg)
        ends = list(itertools.accumulate((math.prod(shape) for shape in self.shapes), initial=0))
        text = json.dumps([self.names, self.shapes], separators=(",", ":"))
        object.__setattr__(self, "offsets", tuple(ends[:-1]))
        object.__setattr__(self, "size", ends[-1])
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).digest()[:16])

    @classmethod
    def for_config(cls, config: ModelConfig) -> Self:
        """Return the layout of the network of this configuration, with word-indexed tensors first.

        Guarantees:
            Names and shapes are those of the parameters of `cifg.CifgLanguageModel`.
        """
        v, e, h = config.vocabulary_size, config.embedding_size, config.hidden_size
        shapes = {
            "embedding": (v, e),
            "output_bias": (v,),
            "input_kernel": (e, 3 * h),
            "recurrent_kernel": (e, 3 * h),
            "gate_bias": (3 * h,),
            "projection": (h, e),
        }
        return cls(names=tuple(shapes), shapes=tuple(shapes.values()))

    def flatten(self, params: Mapping[str, ArrayLike]) -> F32:
        """Return the parameters as one new vector. Shape (size,), float32.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape.
        """
        if set(params) != set(self.names):
            msg = f"parameters {sorted(params)} are not those of the layout, {sorted(self.names)}"
            raise ValueError(msg)
        vector = np.empty(self.size, np.float32)
        for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True):
            tensor = np.asarray(params[name], np.float32)
            if tensor.shape != shape:
                msg = f"parameter {name!r} has shape {tensor.shape}, the layout says {shape}"
                raise ValueError(msg)
            vector[offset : offset + tensor.size] = tensor.reshape(-1)
        return vector

    def unflatten(self, vector: F32) -> dict[str, F32]:
        """Return the vector's tensors by name, as views and not copies.

        Raises:
            ValueError: the vector is not of shape (size,).
        """
        if vector.shape != (self.size,):
            msg = f"a vector of shape {vector.shape} does not fill a layout of {self.size} numbers"
            raise ValueError(msg)
        return {
            name: vector[offset : offset + math.prod(shape)].reshape(shape)
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }

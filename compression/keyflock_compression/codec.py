"""Encode and decode: the codec by name, the entropy stage, and the container around them."""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.budget import longest_within
from keyflock_compression.container import Container, parse, read_spec
from keyflock_compression.deadzone import DeadzoneCodec
from keyflock_compression.deadzone_rows import DeadzoneRowsCodec
from keyflock_compression.dense import DenseCodec
from keyflock_compression.errors import LimitExceeded, NonFinite, WrongLayout, WrongSpec
from keyflock_compression.family import Codec, StreamReader, checked_scales
from keyflock_compression.float32 import Float32Codec
from keyflock_compression.layout import Layout, row_count
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.spec import CodecName, CodecSpec
from keyflock_compression.topk import TopkCodec
from keyflock_compression.update import DecodedUpdate

CODECS: Final[MappingProxyType[CodecName, Codec]] = MappingProxyType(
    {
        "deadzone_rows": DeadzoneRowsCodec(),
        "deadzone": DeadzoneCodec(),
        "topk": TopkCodec(),
        "dense": DenseCodec(),
        "float32": Float32Codec(),
    }
)


def encode(delta: Float32, layout: Layout, spec: CodecSpec, *, seed: int) -> bytes:
    """The delta as a container.

    Args:
        delta: Shape (P,), float32, P = layout.size.
        layout: What the values mean; its digest goes along.
        spec: Which codec, with which settings.
        seed: Of stochastic rounding; equal arguments give equal bytes.
    Raises:
        WrongLayout: the delta has another size than the layout.
        NonFinite: NaN or infinity in the delta.
        LimitExceeded: ``budget_bytes`` is too little for any delta of this layout.
    """
    if delta.shape != (layout.size,):
        raise WrongLayout(f"the delta has shape {delta.shape}; ({layout.size},) was expected")
    if not np.isfinite(delta).all():
        raise NonFinite("the delta holds NaN or infinity")
    exact = np.ascontiguousarray(delta, np.float32)
    if spec.budget_bytes is None:
        return _container(exact, layout, spec, spec, seed)
    if spec.target_nmse is not None or spec.step_rms is not None:
        wanted = _container(exact, layout, spec, replace(spec, budget_bytes=None), seed)
        if len(wanted) <= spec.budget_bytes:
            return wanted

    def of_step(ratio: float) -> bytes:
        by_step = replace(spec, budget_bytes=None, target_nmse=None, step_rms=ratio)
        return _container(exact, layout, spec, by_step, seed)

    return longest_within(spec.budget_bytes, of_step)


def _container(delta: Float32, layout: Layout, said: CodecSpec, spec: CodecSpec, seed: int) -> bytes:
    """The container of ``spec`` that says that it is of ``said``, which leaves the step to the phone."""
    encoded = CODECS[spec.codec].encode(delta, layout, spec, seed)
    streams = encoded.streams
    if spec.entropy == "zstd":
        streams = tuple(entropy.compress(stream, spec.zstd_level) for stream in streams)
    scales = encoded.scales.astype("<f4").tobytes()
    return Container(said.to_wire(), layout.digest, scales, streams).to_bytes()


def decode(
    data: bytes,
    layout: Layout,
    *,
    spec: CodecSpec | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> DecodedUpdate:
    """The update in a container, whatever the bytes are.

    Args:
        data: Untrusted.
        layout: The layout it must have.
        spec: The spec it must have been encoded with; None takes the container's word for it.
        limits: What decoding may take.
    Guarantees:
        The update has ``layout.size`` finite values. Memory is at most about 24 times ``layout.size`` bytes
        and twice the container's length, time is proportional to both.
    Raises:
        CodecError: one of its subclasses says what was wrong; nothing else is ever raised.
    """
    if layout.size > limits.max_parameters:
        raise LimitExceeded(
            f"the layout has {layout.size} parameters; at most {limits.max_parameters} are taken"
        )
    container = parse(data, limits)
    own = read_spec(container)
    if spec is not None and own != spec:
        raise WrongSpec("the container was encoded with another spec than the one that was assigned")
    if container.layout != layout.digest:
        raise WrongLayout("the container was encoded for another layout of parameters")
    match own.codec:
        case "dense":
            expected = row_count(layout)
        case "float32":
            expected = 0
        case _:
            expected = 1
    scales = checked_scales(container.scales, expected)
    return CODECS[own.codec].decode(scales, StreamReader(own, container.streams, limits), layout, own)

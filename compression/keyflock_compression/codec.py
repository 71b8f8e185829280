"""Encoding and decoding: the codec that a spec names, the entropy stage, and the container around them."""

from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.budget import finest_container_within
from keyflock_compression.codec_interface import (
    Codec,
    ContainerLength,
    ContainerSizes,
    StreamReader,
    read_scales,
)
from keyflock_compression.container import Container, parse, read_expected, read_spec
from keyflock_compression.deadzone import DeadzoneCodec
from keyflock_compression.deadzone_rows import DeadzoneRowsCodec
from keyflock_compression.dense import DenseCodec
from keyflock_compression.errors import LimitExceeded, NonFinite, WrongLayout, WrongSpec
from keyflock_compression.float32 import Float32Codec
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.randmask import RandmaskCodec
from keyflock_compression.rotated import RotatedCodec
from keyflock_compression.rowset import RowsetCodec
from keyflock_compression.spec import AdaptiveStepSpec, CodecName, CodecSpec
from keyflock_compression.topk import TopkCodec
from keyflock_compression.update import DecodedUpdate

CODECS: Final[MappingProxyType[CodecName, Codec[Any]]] = MappingProxyType(
    {
        "deadzone_rows": DeadzoneRowsCodec(),
        "deadzone": DeadzoneCodec(),
        "topk": TopkCodec(),
        "randmask": RandmaskCodec(),
        "rowset": RowsetCodec(),
        "dense": DenseCodec(),
        "rotated": RotatedCodec(),
        "float32": Float32Codec(),
    }
)


def encode(delta: Float32, layout: Layout, spec: CodecSpec, *, seed: int) -> bytes:
    """Encode a delta as a container.

    Args:
        delta: Shape (P,), float32, P = layout.size.
        layout: The layout of the values; its digest goes into the container.
        spec: The codec and its settings.
        seed: The seed of stochastic rounding, and of what phone and server both draw. In [0, 2**64). Equal
            arguments give equal bytes.
    Raises:
        WrongLayout: the delta has another size than the layout.
        NonFinite: the delta holds NaN or infinity, or needs a scale that float32 cannot represent.
        LimitExceeded: ``budget_bytes`` is too little for any delta of this layout.
        SpecError: the layout does not have the rows that the spec names.
    """
    if delta.shape != (layout.size,):
        raise WrongLayout(f"the delta has shape {delta.shape}; ({layout.size},) was expected")
    if not np.isfinite(delta).all():
        raise NonFinite("the delta holds NaN or infinity")
    exact = np.ascontiguousarray(delta, np.float32)
    if not isinstance(spec, AdaptiveStepSpec) or spec.budget_bytes is None:
        return _container(exact, layout, spec, spec, seed)
    if spec.target_nmse is not None or spec.step_rms is not None:
        wanted = _container(exact, layout, spec, msgspec.structs.replace(spec, budget_bytes=None), seed)
        if len(wanted) <= spec.budget_bytes:
            return wanted

    def of_step(ratio: float) -> bytes:
        by_step = msgspec.structs.replace(spec, budget_bytes=None, target_nmse=None, step_rms=ratio)
        return _container(exact, layout, spec, by_step, seed)

    return finest_container_within(spec.budget_bytes, of_step)


def _container(delta: Float32, layout: Layout, stated: CodecSpec, spec: CodecSpec, seed: int) -> bytes:
    """Encode with ``spec``, and state the assigned spec, which leaves the step to the phone."""
    encoded = CODECS[spec.codec].encode(delta, layout, spec, seed)
    if not np.isfinite(encoded.scales).all():
        raise NonFinite(f"the delta has values for which {spec.codec} has no scale in float32")
    streams = encoded.streams
    if spec.entropy == "zstd":
        streams = tuple(entropy.compress(stream, spec.zstd_level) for stream in streams)
    scales = encoded.scales.astype("<f4").tobytes()
    return Container(stated.to_wire(), layout.digest, scales, streams).to_bytes()


def container_sizes(spec: CodecSpec, layout: Layout) -> ContainerSizes:
    """Return the number of scales and streams, and each stream's size before the entropy stage.

    A size that does not depend on the delta is a number. All are for ``float32``, ``dense``, ``randmask``,
    ``rowset`` and ``rotated``, so that a server can predict the size of an upload.

    Raises:
        SpecError: the layout does not have the rows that the spec names.
    """
    return CODECS[spec.codec].sizes(layout, spec)


def container_length(spec: CodecSpec, layout: Layout) -> ContainerLength:
    """Return the bounds on a container's length, whatever the delta.

    Guarantees:
        With the entropy stage ``none``, the bounds are equal where ``container_sizes`` knows all sizes; with
        ``zstd``, frames are never longer than zstd's own bound, 1/256 more than their content and 64 bytes.
        ``budget_bytes`` is ignored.
    Raises:
        SpecError: the layout does not have the rows that the spec names.
    """
    sizes = container_sizes(spec, layout)
    bare = Container(spec.to_wire(), layout.digest, bytes(4 * sizes.scales), ()).to_bytes()
    known = [size for size in sizes.streams if size is not None]
    is_packed = spec.entropy == "zstd"
    # An empty stream takes two bytes in msgpack.
    min_bytes = len(bare) + 2 * len(sizes.streams)
    if not is_packed:
        min_bytes += sum(_binary(size) - 2 for size in known)
    if len(known) < len(sizes.streams):
        return ContainerLength(min_bytes, None)
    max_streams = sum(_binary(entropy.max_frame_bytes(size) if is_packed else size) for size in known)
    return ContainerLength(min_bytes, len(bare) + max_streams)


def _binary(size: int) -> int:
    """Return the length of msgpack's shortest form of a binary of ``size`` bytes."""
    return size + (2 if size < 2**8 else 3 if size < 2**16 else 5)


def decode(
    data: bytes,
    layout: Layout,
    *,
    spec: CodecSpec | None = None,
    seed: int | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> DecodedUpdate:
    """Decode the update in a container, whatever the bytes are.

    Args:
        data: The container, untrusted.
        layout: The layout that it must have.
        spec: The spec that it must have been encoded with; None accepts the one that the container states.
        seed: The seed that it must have been encoded with, where its codec sends one (``randmask``,
            ``rotated``): a phone that chose it could choose which values are sent. None accepts any.
        limits: The limits on what decoding may take.
    Guarantees:
        The update has ``layout.size`` finite values. Memory is at most about 24 times ``layout.size`` bytes
        and four times the container's length, time is proportional to both.
    Raises:
        CodecError: one of its subclasses says what was wrong; nothing else is ever raised.
    """
    if layout.size > limits.max_parameters:
        raise LimitExceeded(
            f"the layout has {layout.size} parameters; at most {limits.max_parameters} are taken"
        )
    found = None if spec is None else read_expected(data, spec, layout.digest, limits)
    if spec is None or found is None:
        container = parse(data, limits)
        own = read_spec(container)
        if spec is not None and own != spec:
            raise WrongSpec("the container was encoded with another spec than the one that was assigned")
        if container.layout != layout.digest:
            raise WrongLayout("the container was encoded for another layout of parameters")
        spec, found = own, (container.scales, container.streams)
    codec = CODECS[spec.codec]
    expected = codec.sizes(layout, spec)
    scales = read_scales(found[0], expected.scales)
    streams = StreamReader(spec, found[1], limits, seed)
    streams.require_count(len(expected.streams))
    return codec.decode(scales, streams, layout, spec)

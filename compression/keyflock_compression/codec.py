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
from keyflock_compression.family import Codec, Length, Sizes, StreamReader, checked_scales
from keyflock_compression.float32 import Float32Codec
from keyflock_compression.layout import Layout
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.randmask import RandmaskCodec
from keyflock_compression.rotated import RotatedCodec
from keyflock_compression.rowset import RowsetCodec
from keyflock_compression.spec import CodecName, CodecSpec
from keyflock_compression.topk import TopkCodec
from keyflock_compression.update import DecodedUpdate

CODECS: Final[MappingProxyType[CodecName, Codec]] = MappingProxyType(
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
    """The delta as a container.

    Args:
        delta: Shape (P,), float32, P = layout.size.
        layout: What the values mean; its digest goes along.
        spec: Which codec, with which settings.
        seed: In [0, 2**64). Of stochastic rounding, and of what a phone and its server draw alike; equal
            arguments give equal bytes.
    Raises:
        WrongLayout: the delta has another size than the layout.
        NonFinite: NaN or infinity in the delta, or a scale of it that float32 does not have.
        LimitExceeded: ``budget_bytes`` is too little for any delta of this layout.
        SpecError: the layout has not the rows that the spec names.
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
    if not np.isfinite(encoded.scales).all():
        raise NonFinite(f"the delta has values for which {spec.codec} has no scale in float32")
    streams = encoded.streams
    if spec.entropy == "zstd":
        streams = tuple(entropy.compress(stream, spec.zstd_level) for stream in streams)
    scales = encoded.scales.astype("<f4").tobytes()
    return Container(said.to_wire(), layout.digest, scales, streams).to_bytes()


def sizes_of(spec: CodecSpec, layout: Layout) -> Sizes:
    """How many scales and streams a container has, and how long each stream is before the entropy stage.

    What does not depend on the delta is a number: of ``float32``, ``dense``, ``randmask``, ``rowset`` and
    ``rotated`` everything, so that a server can foretell an upload.

    Raises:
        SpecError: the layout has no such rows.
    """
    return CODECS[spec.codec].sizes(layout, spec)


def length_of(spec: CodecSpec, layout: Layout) -> Length:
    """How long a container can be, whatever the delta: what a server can promise before there is one.

    Guarantees:
        With the entropy stage ``none``, ``least`` is ``most`` where ``sizes_of`` foretells all; with
        ``zstd``, frames are never longer than zstd's own bound, 1/256 more than their content and 64 bytes.
        ``budget_bytes`` is not looked at.
    Raises:
        SpecError: the layout has no such rows.
    """
    sizes = sizes_of(spec, layout)
    bare = Container(spec.to_wire(), layout.digest, bytes(4 * sizes.scales), ()).to_bytes()
    known = [size for size in sizes.streams if size is not None]
    is_packed = spec.entropy == "zstd"
    # A stream of nothing has the two bytes that say so.
    least = len(bare) + 2 * len(sizes.streams)
    if not is_packed:
        least += sum(_binary(size) - 2 for size in known)
    if len(known) < len(sizes.streams):
        return Length(least, None)
    most = sum(_binary(entropy.most_bytes(size) if is_packed else size) for size in known)
    return Length(least, len(bare) + most)


def _binary(size: int) -> int:
    """Bytes of msgpack's shortest form of a binary of ``size`` bytes."""
    return size + (2 if size < 2**8 else 3 if size < 2**16 else 5)


def decode(
    data: bytes,
    layout: Layout,
    *,
    spec: CodecSpec | None = None,
    seed: int | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> DecodedUpdate:
    """The update in a container, whatever the bytes are.

    Args:
        data: Untrusted.
        layout: The layout it must have.
        spec: The spec it must have been encoded with; None takes the container's word for it.
        seed: The seed that it must have been encoded with, where its codec sends one (``randmask``,
            ``rotated``): a phone that chose it could choose what is kept. None takes the container's word.
        limits: What decoding may take.
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
    container = parse(data, limits)
    own = read_spec(container)
    if spec is not None and own != spec:
        raise WrongSpec("the container was encoded with another spec than the one that was assigned")
    if container.layout != layout.digest:
        raise WrongLayout("the container was encoded for another layout of parameters")
    codec = CODECS[own.codec]
    expected = codec.sizes(layout, own)
    scales = checked_scales(container.scales, expected.scales)
    streams = StreamReader(own, container.streams, limits, seed)
    streams.expect(len(expected.streams))
    return codec.decode(scales, streams, layout, own)

"""The difference between two models in few bytes: the quantized numbers that changed, and the scales.

    {"v": 1, "layout": 16 bytes, "result": 32 bytes, "streams": [six zstd frames], "digest": 8 bytes}

The delta is exact: the result equals the whole download, number for number, so that it does not matter which
of the two a phone took. ``result`` is the content digest of the result and finds a wrong base; ``digest``
finds damage. It is small because a server step leaves most numbers as they are, and a row's scale too unless
the row's largest weight moved (docs/decisions/0031).
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import StreamReader, read_scales
from keyflock_compression.container import CONTAINER_DIGEST_BYTES, LAYOUT_DIGEST_BYTES, unpack_map
from keyflock_compression.errors import (
    CorruptedContainer,
    LimitExceeded,
    MalformedContainer,
    WrongBase,
    WrongLayout,
)
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.positions import decode_positions, encode_positions, read_bits
from keyflock_compression.row_weights import CONTENT_DIGEST_BYTES, RowWeights, read_row_weights
from keyflock_compression.spec import DenseSpec

VERSION: Final = 1
_KEYS: Final = ("v", "layout", "result", "streams", "digest")
_SIGNS, _MAGNITUDES, _SCALES, _STREAMS = 3, 4, 5, 6
_MIN_LARGE: Final = 2
#: The largest magnitude of a difference modulo 256.
_MAX_DIFFERENCE: Final = 128
_SPEC: Final = DenseSpec(zstd_level=3)


@dataclass(frozen=True, slots=True)
class _FlatLayout:
    """A layout of all parameters as one row, so that rows that do not fill a whole cell cost nothing."""

    size: int
    digest: bytes = b""
    names: tuple[str, ...] = ("all",)
    offsets: tuple[int, ...] = (0,)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the only tensor."""
        return ((self.size,),)


def encode_weights_delta(after: bytes, before: bytes) -> bytes:
    """Encode how the model ``after`` follows from the model ``before``; equal arguments give equal bytes.

    Args:
        after: A download from ``encode_weights`` in int8.
        before: Another one with the same layout.
    Raises:
        WrongLayout: the two have different layouts.
        CodecError: one of them is no such download.
    """
    new, old = read_row_weights(after), read_row_weights(before)
    if (new.layout, new.scales.size, new.quantized.size) != (old.layout, old.scales.size, old.quantized.size):
        raise WrongLayout("the two models are laid out otherwise")
    difference = (new.quantized.view(np.uint8) - old.quantized.view(np.uint8)).view(np.int8)
    positions = encode_positions(np.flatnonzero(difference), _FlatLayout(difference.size))
    values = difference[positions.indices].astype(np.int64)
    magnitudes = np.abs(values)
    is_large = magnitudes >= _MIN_LARGE
    streams = (
        positions.in_use,
        positions.counts,
        (2 * positions.gaps + is_large).astype(np.uint8).tobytes(),
        np.packbits(values < 0, bitorder="little").tobytes(),
        (magnitudes[is_large] - _MIN_LARGE).astype(np.uint8).tobytes(),
        _encode_scales(new.scales, old.scales),
    )
    frames = [entropy.compress(stream, _SPEC.zstd_level) for stream in streams]
    return _pack(new.layout, new.content_digest, frames)


def apply_weights_delta(
    delta: bytes, base: bytes, *, result: bytes | None = None, limits: DecodeLimits = DEFAULT_LIMITS
) -> bytes:
    """Apply a delta to a base model; return the result as a container for ``decode_weights``.

    Args:
        delta: The delta, untrusted.
        base: The container that the phone has: a download, or an earlier result of this function.
        result: The content digest that the result must have; None accepts the one that the delta states.
        limits: The limits on what decoding may take.
    Guarantees:
        Memory is at most about 24 times the base's parameters and four times the delta's length, time
        proportional to both. The result has the content digest that was asked for.
    Raises:
        WrongBase: the delta leads from this base to another model than it states.
        CodecError: another of its subclasses says what was wrong; nothing else is ever raised.
    """
    layout, stated, frames = _parse(delta, limits)
    if result is not None and stated != result:
        raise WrongBase("the delta leads to another model than the one that was asked for")
    old = read_row_weights(base, limits)
    if layout != old.layout:
        raise WrongLayout("the delta is of another layout of parameters than the base")
    streams = StreamReader(_SPEC, frames, limits)
    quantized = old.quantized.view(np.uint8) + _differences(streams, old.quantized.size)
    new = RowWeights(layout, _decode_scales(streams, old.scales), quantized.view(np.int8))
    if new.content_digest != stated:
        raise WrongBase("the delta makes another model of this base than it says")
    return new.to_container()


def _differences(streams: StreamReader, size: int) -> NDArray[np.uint8]:
    """Decode the difference of each quantized number, modulo 256. Shape (P,)."""
    symbols, indices = decode_positions(streams, _FlatLayout(size))
    signs = np.unpackbits(read_bits(streams, _SIGNS, symbols.size), bitorder="little")[: symbols.size]
    is_large = (symbols & 1).astype(bool)
    large = np.frombuffer(streams.read(_MAGNITUDES, int(is_large.sum())), np.uint8)
    if large.max(initial=0) > _MAX_DIFFERENCE - _MIN_LARGE:
        raise MalformedContainer("a difference is beyond 128")
    magnitudes = np.ones(symbols.size, np.uint8)
    magnitudes[is_large] = large + np.uint8(_MIN_LARGE)
    differences = np.zeros(size, np.uint8)
    differences[indices] = np.where(signs.astype(bool), -magnitudes, magnitudes)
    return differences


def _encode_scales(new: Float32, old: Float32) -> bytes:
    """Encode the differences of the scales' bits, zigzag-folded, with all lowest bytes first."""
    signed = (_bits(new) - _bits(old)).view(np.int32)
    folded = (signed << 1) ^ (signed >> 31)
    return folded.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _decode_scales(streams: StreamReader, old: Float32) -> Float32:
    planes = np.frombuffer(streams.read(_SCALES, 4 * old.size), np.uint8).reshape(4, old.size)
    folded = np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.uint32)
    signed = (folded >> np.uint32(1)) ^ (np.uint32(0) - (folded & np.uint32(1)))
    return read_scales((_bits(old) + signed).astype("<u4").tobytes(), old.size)


def _bits(scales: Float32) -> NDArray[np.uint32]:
    return np.ascontiguousarray(scales, np.float32).view(np.uint32)


def _pack(layout: bytes, result: bytes, streams: list[bytes]) -> bytes:
    fields: dict[str, object] = {"v": VERSION, "layout": layout, "result": result, "streams": streams}
    return bytes(msgpack.packb({**fields, "digest": _digest(fields)}, use_bin_type=True))


def _digest(fields: dict[str, object]) -> bytes:
    packed = msgpack.packb(fields, use_bin_type=True)
    return hashlib.blake2b(packed, digest_size=CONTAINER_DIGEST_BYTES).digest()


def _parse(data: bytes, limits: DecodeLimits) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return layout, result and streams of a delta, whatever the bytes are."""
    if len(data) > limits.max_container_bytes:
        raise LimitExceeded(
            f"the delta has {len(data)} bytes; at most {limits.max_container_bytes} are taken"
        )
    fields = unpack_map(data)
    if tuple(fields) != _KEYS:
        raise MalformedContainer(f"a delta has exactly the fields {', '.join(_KEYS)}, in this order")
    version, layout, result, streams, digest = fields.values()
    if type(version) is not int or version != VERSION:
        raise MalformedContainer(f"the delta's version is not {VERSION}")
    if not isinstance(streams, list) or len(streams) != _STREAMS:
        raise MalformedContainer(f"a delta has {_STREAMS} streams")
    if not all(isinstance(part, bytes) for part in (layout, result, digest, *streams)):
        raise MalformedContainer("layout, result, digest and every stream must be binary")
    if (len(layout), len(result)) != (LAYOUT_DIGEST_BYTES, CONTENT_DIGEST_BYTES):
        raise MalformedContainer("a digest has another length")
    if digest != _digest({name: fields[name] for name in _KEYS[:-1]}):
        raise CorruptedContainer("the delta's digest does not match its content")
    if _pack(layout, result, streams) != data:
        raise MalformedContainer("the delta is not in msgpack's shortest forms")
    return layout, result, tuple(streams)

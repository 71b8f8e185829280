"""From one model to the next in few bytes: which whole numbers changed, by how much, and the scales.

    {"v": 1, "layout": 16 bytes, "result": 32 bytes, "streams": [six zstd frames], "digest": 8 bytes}

Exact: what comes out is, number for number, what the whole download says, so that it does not matter which
way a phone came. ``result`` is the content digest of that and finds a wrong base; ``digest`` finds damage.
The size follows from what a server step leaves alone: most numbers keep their value, and a row's scale stays
unless the row's largest weight moved (docs/decisions/0031).
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from keyflock_compression import entropy
from keyflock_compression.arrays import Float32
from keyflock_compression.container import CONTAINER_DIGEST_BYTES, LAYOUT_DIGEST_BYTES, unpack_map
from keyflock_compression.errors import (
    CorruptedContainer,
    LimitExceeded,
    MalformedContainer,
    WrongBase,
    WrongLayout,
)
from keyflock_compression.family import StreamReader, checked_scales
from keyflock_compression.limits import DEFAULT_LIMITS, DecodeLimits
from keyflock_compression.places import bits_read, places_read, places_to_write
from keyflock_compression.row_weights import CONTENT_DIGEST_BYTES, RowWeights, read_rows
from keyflock_compression.spec import CodecSpec

VERSION: Final = 1
_KEYS: Final = ("v", "layout", "result", "streams", "digest")
_SIGNS, _MAGNITUDES, _SCALES, _STREAMS = 3, 4, 5, 6
_LEAST_LARGE: Final = 2
#: Of a difference modulo 256.
_LARGEST: Final = 128
_SPEC: Final = CodecSpec(codec="dense", zstd_level=3)


@dataclass(frozen=True, slots=True)
class _Flat:
    """All parameters as one line: rows that are no multiple of a cell cost nothing here."""

    size: int
    digest: bytes = b""
    names: tuple[str, ...] = ("all",)
    offsets: tuple[int, ...] = (0,)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """One tensor."""
        return ((self.size,),)


def encode_weights_delta(after: bytes, before: bytes) -> bytes:
    """How the model ``after`` follows from the model ``before``; deterministic.

    Args:
        after: A download of ``encode_weights`` in int8.
        before: Another one of the same layout.
    Raises:
        WrongLayout: they are of different layouts.
        CodecError: one is no such download.
    """
    new, old = read_rows(after), read_rows(before)
    if (new.layout, new.scales.size, new.whole.size) != (old.layout, old.scales.size, old.whole.size):
        raise WrongLayout("the two models are laid out otherwise")
    difference = (new.whole.view(np.uint8) - old.whole.view(np.uint8)).view(np.int8)
    places = places_to_write(np.flatnonzero(difference), _Flat(difference.size))
    values = difference[places.indices].astype(np.int64)
    magnitudes = np.abs(values)
    is_large = magnitudes >= _LEAST_LARGE
    streams = (
        places.in_use,
        places.counts,
        (2 * places.gaps + is_large).astype(np.uint8).tobytes(),
        np.packbits(values < 0, bitorder="little").tobytes(),
        (magnitudes[is_large] - _LEAST_LARGE).astype(np.uint8).tobytes(),
        _scales_to_write(new.scales, old.scales),
    )
    frames = [entropy.compress(stream, _SPEC.zstd_level) for stream in streams]
    return _pack(new.layout, new.content_digest, frames)


def apply_weights_delta(
    delta: bytes, base: bytes, *, result: bytes | None = None, limits: DecodeLimits = DEFAULT_LIMITS
) -> bytes:
    """The model that ``delta`` makes of ``base``, as a container for ``decode_weights``.

    Args:
        delta: Untrusted.
        base: The container that the phone has, as it came or as this function gave it.
        result: The content digest that the model must have; None takes the delta's word for it.
        limits: What decoding may take.
    Guarantees:
        Memory is at most about 24 times the base's parameters and four times the delta's length, time
        proportional to both. What is given has the content digest that was asked for.
    Raises:
        WrongBase: the delta makes something else of this base than it says.
        CodecError: another of its subclasses says what was wrong; nothing else is ever raised.
    """
    layout, said, frames = _parse(delta, limits)
    if result is not None and said != result:
        raise WrongBase("the delta leads to another model than the one that was asked for")
    old = read_rows(base, limits)
    if layout != old.layout:
        raise WrongLayout("the delta is of another layout of parameters than the base")
    streams = StreamReader(_SPEC, frames, limits)
    whole = old.whole.view(np.uint8) + _differences(streams, old.whole.size)
    new = RowWeights(layout, _scales_read(streams, old.scales), whole.view(np.int8))
    if new.content_digest != said:
        raise WrongBase("the delta makes another model of this base than it says")
    return new.to_container()


def _differences(streams: StreamReader, size: int) -> NDArray[np.uint8]:
    """What is added to each whole number, modulo 256. Shape (P,)."""
    symbols, indices = places_read(streams, _Flat(size))
    signs = np.unpackbits(bits_read(streams, _SIGNS, symbols.size), bitorder="little")[: symbols.size]
    is_large = (symbols & 1).astype(bool)
    large = np.frombuffer(streams.read(_MAGNITUDES, int(is_large.sum())), np.uint8)
    if large.max(initial=0) > _LARGEST - _LEAST_LARGE:
        raise MalformedContainer("a difference is beyond 128")
    magnitudes = np.ones(symbols.size, np.uint8)
    magnitudes[is_large] = large + np.uint8(_LEAST_LARGE)
    differences = np.zeros(size, np.uint8)
    differences[indices] = np.where(signs.astype(bool), -magnitudes, magnitudes)
    return differences


def _scales_to_write(new: Float32, old: Float32) -> bytes:
    """The differences of the scales' bits, small ones near zero on either side; a plane for each byte."""
    signed = (_bits(new) - _bits(old)).view(np.int32)
    folded = (signed << 1) ^ (signed >> 31)
    return folded.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _scales_read(streams: StreamReader, old: Float32) -> Float32:
    planes = np.frombuffer(streams.read(_SCALES, 4 * old.size), np.uint8).reshape(4, old.size)
    folded = np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.uint32)
    signed = (folded >> np.uint32(1)) ^ (np.uint32(0) - (folded & np.uint32(1)))
    return checked_scales((_bits(old) + signed).astype("<u4").tobytes(), old.size)


def _bits(scales: Float32) -> NDArray[np.uint32]:
    return np.ascontiguousarray(scales, np.float32).view(np.uint32)


def _pack(layout: bytes, result: bytes, streams: list[bytes]) -> bytes:
    fields: dict[str, object] = {"v": VERSION, "layout": layout, "result": result, "streams": streams}
    return bytes(msgpack.packb({**fields, "digest": _digest(fields)}, use_bin_type=True))


def _digest(fields: dict[str, object]) -> bytes:
    packed = msgpack.packb(fields, use_bin_type=True)
    return hashlib.blake2b(packed, digest_size=CONTAINER_DIGEST_BYTES).digest()


def _parse(data: bytes, limits: DecodeLimits) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Layout, result and streams of a delta, whatever the bytes are."""
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
    return layout, result, tuple(streams)

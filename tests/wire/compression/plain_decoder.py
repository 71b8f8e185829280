"""A second decoder, in plain loops, from docs/wire_format.md alone: it shares no line with the first.

Slow, strict, and simple enough to be read beside the document. msgpack, zstd and BLAKE2b come from their
libraries, as they do on a phone.
"""

import hashlib
import struct
from collections.abc import Iterator
from math import copysign, isfinite, prod
from typing import Any, Final

import msgpack
import zstandard

FIELDS: Final = ["v", "spec", "layout", "scales", "streams", "digest"]
SETTINGS: Final = [
    *("codec", "rounding", "target_nmse", "step_rms", "budget_bytes", "keep_ratio", "entropy", "zstd_level"),
    *("bits", "selection", "step", "row_start", "row_count", "feedback_s"),
]
DELTA_FIELDS: Final = ["v", "layout", "result", "streams", "digest"]
MOST: Final = 2**23
STREAMS: Final = {
    "float32": 1,
    "dense": 1,
    "deadzone": 2,
    "deadzone_rows": 6,
    "topk": 4,
    "randmask": 2,
    "rowset": 1,
    "rotated": 2,
}
LEVELS: Final = {1: [559], 2: [317, 1057], 4: [90, 272, 460, 660, 879, 1133, 1448, 1913]}

ROOTS: Final = "3f800000 3f6ac0c7 3f5744fd 3f45672a 3f3504f3 3f25fed7 3f1837f0 3f0b95c2"

Shapes = tuple[tuple[int, ...], ...]


class DecodeRefused(ValueError):
    """The bytes are not as the document specifies."""


def plain_decode(data: bytes, shapes: Shapes, layout_digest: bytes) -> list[float]:
    """Decode the vector in a container, tensors one after the other."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeRefused("no msgpack") from error
    _need(isinstance(fields, dict) and list(fields) == FIELDS, "not the six fields in their order")
    _need(type(fields["v"]) is int and fields["v"] == 1, "another version")
    signed = msgpack.packb({name: fields[name] for name in FIELDS[:5]})
    _need(hashlib.blake2b(signed, digest_size=8).digest() == fields["digest"], "another digest")
    _need(msgpack.packb(fields | {"v": 1}) == data, "not the shortest forms")
    _need(fields["layout"] == layout_digest, "another layout")
    spec, streams = fields["spec"], fields["streams"]
    _need([name for name in SETTINGS if name in spec] == list(spec), "settings in another order")
    codec = spec["codec"]
    _need(len(streams) == STREAMS[codec], "another number of streams")
    scales = _floats(fields["scales"])
    _need(all(copysign(1, scale) > 0 for scale in scales), "a negative scale")
    reader = _Reader(spec, streams)
    size = sum(prod(shape) for shape in shapes)
    match codec:
        case "float32":
            _need(not scales, "scales where there are none")
            values = _floats(reader.read(0, 4 * size))
        case "dense":
            values = _dense(reader, shapes, scales, spec.get("bits", 8))
        case "randmask":
            _need(len(scales) == 1, "one scale")
            values = _randmask(reader, size, spec["keep_ratio"], scales[0])
        case "rowset":
            _need(not scales, "scales where there are none")
            values = _rowset(reader, shapes, spec)
        case "rotated":
            values = _rotated(reader, size, spec["bits"], scales)
        case "deadzone":
            _need(len(scales) == 1, "one step")
            values = _stepped(_deadzone(reader, size), scales[0])
        case "topk":
            _need(len(scales) == 1, "one scale")
            values = _topk(reader, shapes, size, scales[0])
        case _:
            _need(len(scales) == 1, "one step")
            values = _stepped(_deadzone_rows(reader, shapes, size), scales[0])
    _need(all(isfinite(value) for value in values), "a value that is not finite")
    return values


def _stepped(whole: list[int], step: float) -> list[float]:
    _need(step > 0 or not any(whole), "a number of step 0")
    return [_float32(q * step) for q in whole]


class _Reader:
    def __init__(self, spec: dict[str, Any], streams: list[bytes]) -> None:
        self.is_packed = spec["entropy"] == "zstd"
        self.streams = streams

    def read(self, number: int, size: int) -> bytes:
        stream = self.streams[number]
        if self.is_packed:
            try:
                _need(zstandard.frame_content_size(stream) == size, "a frame of another size")
                stream = zstandard.ZstdDecompressor().decompress(stream, allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise DecodeRefused("no zstd frame") from error
        _need(len(stream) == size, "a stream of another size")
        return stream


def _dense(reader: _Reader, shapes: Shapes, scales: list[float], bits: int) -> list[float]:
    _need(bits in {8, 4, 2, 1}, "so many bits")
    codes = _codes(reader, 0, sum(prod(shape) for shape in shapes), bits)
    values: list[float] = []
    row = 0
    for shape in shapes:
        for _ in range(prod(shape[:-1])):
            _need(row < len(scales), "a row without its scale")
            for _ in range(shape[-1]):
                code = codes[len(values)]
                if bits == 1:
                    q = -1 if code else 1
                else:
                    q = code - 2**bits if code >= 2 ** (bits - 1) else code
                _need(bits in {8, 1} or q != -(2 ** (bits - 1)), "a number without its negative")
                _need(scales[row] > 0 or q == (1 if bits == 1 else 0), "a number of scale 0")
                values.append(_float32(q * scales[row]))
            row += 1
    _need(row == len(scales), "a scale without its row")
    return values


def _randmask(reader: _Reader, size: int, keep_ratio: float, scale: float) -> list[float]:
    run = max(1, min(round(1 / max(keep_ratio, 1e-18)), size))
    seed = int.from_bytes(reader.read(0, 8), "little")
    data = reader.read(1, (size + run - 1) // run)
    values = [0.0] * size
    for number, byte in enumerate(data):
        _need(byte != 128, "a number without its negative")
        _need(scale > 0 or byte == 0, "a number of scale 0")
        length = min(run, size - run * number)
        place = run * number + _random(seed, number) % length
        values[place] = _float32((byte - 256 if byte > 128 else byte) * scale)
    return values


def _rowset(reader: _Reader, shapes: Shapes, spec: dict[str, Any]) -> list[float]:
    first, end, bits = spec["row_start"], spec["row_start"] + spec["row_count"], spec["bits"]
    words = shapes[0][0] if shapes[0] else 0
    _need(end <= words, "rows that there are not")
    is_sent: list[bool] = []
    for shape in shapes:
        whole = not shape or shape[0] != words
        row = prod(shape[1:])
        is_sent += [whole or first <= place // row < end for place in range(prod(shape))]
    codes = iter(_codes(reader, 0, sum(is_sent), bits))
    values = []
    for sent in is_sent:
        code = next(codes) if sent else 0
        q = code - 2**bits if code >= 2 ** (bits - 1) else code
        _need(q != -(2 ** (bits - 1)), "a number without its negative")
        values.append(_float32(q * _float32(spec["step"])))
    return values


def _rotated(reader: _Reader, size: int, bits: int, scales: list[float]) -> list[float]:
    _need(bits in LEVELS, "so many bits")
    lengths = [8192] * (size // 8192)
    if size % 8192:
        lengths.append(1)
        while lengths[-1] < size % 8192:
            lengths[-1] *= 2
    _need(len(scales) == len(lengths), "a scale a block")
    seed = int.from_bytes(reader.read(0, 8), "little")
    codes = iter(_codes(reader, 1, sum(lengths), bits))
    table = [-level for level in reversed(LEVELS[bits])] + LEVELS[bits]
    values: list[float] = []
    for length, scale in zip(lengths, scales, strict=True):
        block = [float(table[next(codes)]) for _ in range(length)]
        half = 1
        while half < length:
            for place in range(length):
                if place // half % 2 == 0:
                    one, other = block[place], block[place + half]
                    block[place], block[place + half] = _float32(one + other), _float32(one - other)
            half *= 2
        for value in block:
            place = len(values)
            is_negative = _random(seed, place // 64) >> (place % 64) & 1
            # The zeros that filled the last block up are no part of the vector.
            scaled = _float32(value * scale) if place < size else 0.0
            values.append(-scaled if is_negative else scaled)
    return values[:size]


def _random(seed: int, number: int) -> int:
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def _codes(reader: _Reader, number: int, count: int, bits: int) -> list[int]:
    data = int.from_bytes(reader.read(number, (count * bits + 7) // 8), "little")
    codes = []
    for _ in range(count):
        codes.append(data % 2**bits)
        data //= 2**bits
    _need(data == 0, "a bit behind the last number")
    return codes


def _deadzone(reader: _Reader, size: int) -> list[int]:
    whole = [byte - 256 if byte > 127 else byte for byte in reader.read(0, size)]
    escapes = [index for index, q in enumerate(whole) if q == -128]
    outliers = struct.unpack(f"<{len(escapes)}i", reader.read(1, 4 * len(escapes)))
    for index, q in zip(escapes, outliers, strict=True):
        _need(127 < abs(q) <= MOST, "an outlier out of range")
        whole[index] = q
    return whole


def _deadzone_rows(reader: _Reader, shapes: Shapes, size: int) -> list[int]:
    places, is_large = _places(reader, shapes, size)
    signs = _bits(reader, 3, len(places))
    magnitudes = iter(_magnitudes(reader, sum(is_large)))
    whole = [0] * size
    for place, sign, large in zip(places, signs, is_large, strict=True):
        magnitude = next(magnitudes) if large else 1
        whole[place] = -magnitude if sign else magnitude
    return whole


def _topk(reader: _Reader, shapes: Shapes, size: int, max_value: float) -> list[float]:
    places, is_negative = _places(reader, shapes, size)
    _need(max_value > 0 or not places, "a number of scale 0")
    roots = struct.unpack(">8f", bytes.fromhex(ROOTS))
    values = [0.0] * size
    for place, negative, level in zip(places, is_negative, reader.read(3, len(places)), strict=True):
        value = _float32(_float32(max_value * roots[level % 8]) / 2 ** (level // 8))
        values[place] = -value if negative else value
    return values


def _places(reader: _Reader, shapes: Shapes, size: int) -> tuple[list[int], list[int]]:
    """Return the values' indices into the flat vector, and the third stream's lowest bits."""
    cells = list(_cells(shapes))
    used = [number for number, bit in enumerate(_bits(reader, 0, len(cells))) if bit]
    counts = [byte + 1 for byte in reader.read(1, len(used))]
    _need(sum(counts) <= size, "more values than parameters")
    symbols = iter(reader.read(2, sum(counts)))
    places, lowest = [], []
    for number, count in zip(used, counts, strict=True):
        place = -1
        for _ in range(count):
            symbol = next(symbols)
            place += 1 + symbol // 2
            _need(place < len(cells[number]), "a value behind its cell's end")
            places.append(cells[number][place])
            lowest.append(symbol % 2)
    return places, lowest


def _cells(shapes: Shapes) -> Iterator[list[int]]:
    """Return the indices into the flat vector for each cell."""
    offset = 0
    for shape in shapes:
        rows, columns = prod(shape[:-1]), shape[-1]
        if 1 < rows < columns:
            lines = [[offset + row * columns + column for row in range(rows)] for column in range(columns)]
        else:
            lines = [[offset + row * columns + column for column in range(columns)] for row in range(rows)]
        for line in lines:
            for first in range(0, len(line), 128):
                yield line[first : first + 128]
        offset += rows * columns


def _bits(reader: _Reader, number: int, count: int) -> list[int]:
    data = reader.read(number, (count + 7) // 8)
    bits = [data[index // 8] >> (index % 8) & 1 for index in range(8 * len(data))]
    _need(not any(bits[count:]), "a bit behind the last one")
    return bits[:count]


def _magnitudes(reader: _Reader, count: int) -> list[int]:
    magnitudes = [byte + 2 for byte in reader.read(4, count)]
    escapes = [index for index, magnitude in enumerate(magnitudes) if magnitude == 257]
    outliers = struct.unpack(f"<{len(escapes)}i", reader.read(5, 4 * len(escapes)))
    for index, outlier in zip(escapes, outliers, strict=True):
        _need(257 <= outlier <= MOST, "an outlier out of range")
        magnitudes[index] = outlier
    return magnitudes


def _floats(data: bytes) -> list[float]:
    _need(len(data) % 4 == 0, "not whole floats")
    values = list(struct.unpack(f"<{len(data) // 4}f", data))
    _need(all(isfinite(value) for value in values), "a number that is not finite")
    return values


def _float32(value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError as error:
        raise DecodeRefused("a value that is not finite") from error
    return rounded


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise DecodeRefused(what)


def plain_apply(delta: bytes, base: bytes) -> tuple[list[float], list[int]]:
    """Return scales and quantized numbers of the model that a delta makes from a base in codec ``dense``."""
    try:
        fields, old = msgpack.unpackb(delta), msgpack.unpackb(base)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeRefused("no msgpack") from error
    _need(isinstance(fields, dict) and list(fields) == DELTA_FIELDS, "not the five fields in their order")
    _need(type(fields["v"]) is int and fields["v"] == 1, "another version")
    signed = msgpack.packb({name: fields[name] for name in DELTA_FIELDS[:4]})
    _need(hashlib.blake2b(signed, digest_size=8).digest() == fields["digest"], "another digest")
    _need(msgpack.packb(fields) == delta, "not the shortest forms")
    _need(fields["layout"] == old["layout"], "another layout")
    _need(isinstance(fields["streams"], list) and len(fields["streams"]) == 6, "another number of streams")
    bits = list(struct.unpack(f"<{len(old['scales']) // 4}I", old["scales"]))
    stream = old["streams"][0]
    if old["spec"]["entropy"] == "zstd":
        stream = zstandard.ZstdDecompressor().decompress(stream)
    whole = list(stream)
    reader = _Reader({"entropy": "zstd"}, fields["streams"])
    places, is_large = _places(reader, ((len(whole),),), len(whole))
    signs = _bits(reader, 3, len(places))
    magnitudes = iter(reader.read(4, sum(is_large)))
    for place, sign, large in zip(places, signs, is_large, strict=True):
        magnitude = next(magnitudes) + 2 if large else 1
        _need(magnitude <= 128, "a difference beyond 128")
        whole[place] = (whole[place] - magnitude if sign else whole[place] + magnitude) % 256
    planes = reader.read(5, 4 * len(bits))
    for row, before in enumerate(bits):
        folded = int.from_bytes(planes[row :: len(bits)], "little")
        difference = -(folded // 2) - 1 if folded % 2 else folded // 2
        bits[row] = (before + difference) % 2**32
    scales = struct.pack(f"<{len(bits)}I", *bits)
    result = hashlib.sha256(fields["layout"] + scales + bytes(whole)).digest()
    _need(result == fields["result"], "another result")
    floats = _floats(scales)
    _need(all(scale >= 0 for scale in floats), "a negative scale")
    return floats, [byte - 256 if byte > 127 else byte for byte in whole]

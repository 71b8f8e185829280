"""Encodes and decodes messages, in bounded time and memory for any input.

The decoder is driven by the message's type: it builds only what a field declares, within the field's own
bounds, and skips unknown fields without building them. So its memory is bounded by the body's size. That is
not so for a decoder that first builds everything: 15 MB of empty arrays in an unknown field cost it 1 GB and
seven seconds.

Source: msgpack specification.
"""

import functools
import math
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgpack
import msgspec
import msgspec.inspect
import msgspec.structs

from keyflock_server.protocol.calls import SMALL_BODY_BYTES
from keyflock_server.protocol.problems import ApiError, ProblemCode

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

#: The number of bytes that encode a binary field's length, by the field's first byte.
_BINARY_SIZES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
#: Bytes of a body that a view of one of its fields keeps in memory at most, beside the field.
_MAX_KEPT_BYTES: Final = 1_024

_ENCODER: Final = msgspec.msgpack.Encoder()
#: Returns the decoder of a message type, or of a union of them.
_decoder: Final[Callable[[Any], msgspec.msgpack.Decoder[Any]]] = functools.cache(msgspec.msgpack.Decoder)
_FIXED_MAP: Final = 0x80
_MAP_16: Final = 0xDE
_MAP_16_LEAST: Final = 16
#: Matches the parts of msgspec's messages that quote input.
_QUOTED_VALUE: Final = re.compile(r"Invalid (?:enum )?value .*?(?= - at `|\Z)", re.DOTALL)
_QUOTED_FIELD: Final = re.compile(r"Object contains unknown field `.*?`(?= - at `|\Z)", re.DOTALL)


def encode(message: msgspec.Struct) -> bytes:
    """Return the message as a msgpack map, in msgpack's shortest form."""
    data = _ENCODER.encode(message)
    # msgspec sizes a map's header for all possible fields, even where it leaves some out.
    fields = int.from_bytes(data[1:3])
    if data[0] == _MAP_16 and fields < _MAP_16_LEAST:
        return bytes((_FIXED_MAP | fields,)) + data[3:]
    return data


def decode(body: bytes, kind: type[T]) -> T:
    """Return the message in ``body``.

    Args:
        body: Untrusted bytes.
        kind: The message type, or a union of tagged ones.
    Edge cases:
        unknown fields -> skipped; a key twice -> the last one counts; NaN or infinity -> refused
    Raises:
        ApiError: fault of the client; ``malformed_body`` says what was wrong and where.
    """
    if not body:
        raise ApiError(ProblemCode.MALFORMED_BODY, "The body is empty; a msgpack map was expected.")
    try:
        message: T = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(ProblemCode.MALFORMED_BODY, f"{without_values(str(error))}.") from None
    except UnicodeDecodeError:
        raise ApiError(ProblemCode.MALFORMED_BODY, "A string in the body is not UTF-8.") from None
    except msgspec.DecodeError as error:
        raise ApiError(ProblemCode.MALFORMED_BODY, f"{str(error).rstrip('.')}.") from None
    except RecursionError:
        raise ApiError(ProblemCode.MALFORMED_BODY, "The body is nested too deeply.") from None
    _refuse_non_finite(message, "$")
    return message


def decode_bulky(body: bytes, kind: type[S], bulk: str) -> S:
    """Return the message in ``body``, most of which is one binary field; raises like ``decode``.

    A field of type ``memoryview`` is not copied: it is a view of the body, and keeps all of it in memory.
    Where that is much more than the field, which may be there twice, it is a view of a copy.

    Args:
        body: Untrusted bytes.
        kind: The message type.
        bulk: The name of the field that may be large.
    Guarantees:
        Beside that field at most ``SMALL_BODY_BYTES`` are parsed, so decoding takes milliseconds: skipping
        16 MB of unknown fields would block the event loop for a third of a second.
    """
    if len(body) - _bulk_bytes(body, bulk) > SMALL_BODY_BYTES:
        raise ApiError(
            ProblemCode.MALFORMED_BODY,
            f"Beside the field {bulk} the body takes at most {SMALL_BODY_BYTES} bytes.",
        )
    message = decode(body, kind)
    view = getattr(message, bulk)
    if isinstance(view, memoryview) and len(body) - len(view) > _MAX_KEPT_BYTES:
        message = msgspec.structs.replace(message, **{bulk: memoryview(bytes(view))})
    return message


def _bulk_bytes(body: bytes, bulk: str) -> int:
    """Return the length of the first binary field of that name in the first ``SMALL_BODY_BYTES``; else 0."""
    if len(body) <= SMALL_BODY_BYTES:
        return 0
    head = memoryview(body)[:SMALL_BODY_BYTES]
    unpacker = msgpack.Unpacker(max_buffer_size=SMALL_BODY_BYTES, max_str_len=SMALL_BODY_BYTES, raw=True)
    unpacker.feed(head)
    try:
        for _ in range(unpacker.read_map_header()):
            if unpacker.unpack() == bulk.encode():
                size = _BINARY_SIZES.get(body[unpacker.tell()], 0)
                return int.from_bytes(body[unpacker.tell() + 1 : unpacker.tell() + 1 + size])
            unpacker.skip()
    except (ValueError, TypeError, IndexError, RecursionError, msgpack.UnpackException):
        pass  # it does not begin there, or this is not a map: ``decode`` reports the error
    return 0


def structure(value: object, kind: type[T]) -> T:
    """Return the typed form of plain maps, lists, numbers and strings; raises like ``decode``."""
    try:
        message = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ApiError(ProblemCode.MALFORMED_BODY, f"{without_values(str(error))}.") from None
    except RecursionError:
        raise ApiError(ProblemCode.MALFORMED_BODY, "The body is nested too deeply.") from None
    _refuse_non_finite(message, "$")
    return message


def without_values(message: str) -> str:
    """Return msgspec's message without the values that it quotes, because they may be user text."""
    message = _QUOTED_VALUE.sub("Not one of the values that are taken", message)
    return _QUOTED_FIELD.sub("There is a field that is not known", message)


def _refuse_non_finite(value: object, path: str) -> None:
    """Refuse NaN and infinity: a bound such as ``ge=0`` lets NaN pass, and one NaN spoils a mean for all."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ApiError(
                ProblemCode.MALFORMED_BODY, f"Expected a finite number, got {value} - at `{path}`."
            )
    elif isinstance(value, msgspec.Struct):
        for name, read in _fields_with_floats(type(value)):
            if (held := read(value)) is not None:
                _refuse_non_finite(held, f"{path}.{name}")


@functools.cache
def _fields_with_floats(kind: type[msgspec.Struct]) -> tuple[tuple[str, Callable[[object], object]], ...]:
    """Return the fields that may hold a floating-point number, or a message with such a field.

    A field of a message that is always there stands for it: ``conditions.battery_ratio``.
    """
    known: Any = msgspec.inspect.type_info(kind)
    paths: list[str] = []
    for field in known.fields:
        if isinstance(field.type, msgspec.inspect.StructType):
            paths += [f"{field.name}.{inner}" for inner, _ in _fields_with_floats(field.type.cls)]
        elif _may_hold_float(field.type):
            paths.append(field.name)
    return tuple((path, attrgetter(path)) for path in paths)


def _may_hold_float(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.FloatType() | msgspec.inspect.AnyType():
            return True
        case msgspec.inspect.StructType(cls=message):
            return bool(_fields_with_floats(message))
        case msgspec.inspect.UnionType(types=kinds):
            return any(map(_may_hold_float, kinds))
        case _:
            return False

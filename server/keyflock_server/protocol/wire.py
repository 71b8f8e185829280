"""Messages to bytes and back, in bounded time and memory whatever the bytes are.

Decoding is two steps: msgpack with a limit on every length and on nesting, then the typed structure, whose
errors name the field (``Expected `int`, got `str` - at `$.examples```).

Source: msgpack specification; the limits guard against length lies and deep nesting.
"""

from typing import Any, Final, TypeVar

import msgpack
import msgspec

from keyflock_server.protocol.problems import ProblemCode, Refused

#: A container entry costs the decoder tens of bytes whatever its length on the wire, so counts are bounded.
MAX_ENTRIES: Final = 256
MAX_STRING_BYTES: Final = 65_536
MAX_DEPTH: Final = 8

T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """The message as a msgpack map."""
    return bytes(msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)), use_bin_type=True))


def decode(body: bytes, kind: type[T]) -> T:
    """The message in ``body``.

    Args:
        body: Untrusted bytes.
        kind: The message type, or a union of tagged ones.
    Raises:
        Refused: fault of the client; ``malformed_body`` says what was wrong and where.
    """
    return structure(_unpack(body), kind)


def structure(value: object, kind: type[T]) -> T:
    """The typed form of plain maps, lists, numbers and strings; raises like ``decode``."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise Refused(ProblemCode.MALFORMED_BODY, str(error)) from None
    except RecursionError:
        raise Refused(ProblemCode.MALFORMED_BODY, "The body is nested too deeply.") from None


def _unpack(body: bytes) -> Any:  # noqa: ANN401 - msgpack gives whatever the bytes say
    if not body:
        raise Refused(ProblemCode.MALFORMED_BODY, "The body is empty; a msgpack map was expected.")
    try:
        value = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=len(body),
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, TypeError) as error:
        raise Refused(
            ProblemCode.MALFORMED_BODY, f"The body is not acceptable msgpack: {_reason(error)}."
        ) from None
    if not isinstance(value, dict):
        raise Refused(
            ProblemCode.MALFORMED_BODY, f"The body is a {type(value).__name__}; a msgpack map was expected."
        )
    return value


def _reason(error: Exception) -> str:
    match error:
        case msgpack.exceptions.StackError():
            return "nested too deeply"
        case msgpack.exceptions.ExtraData():
            return "bytes follow the map"
        case UnicodeDecodeError():
            return "a string is not UTF-8"
        case _:
            return str(error).rstrip(".").split("\n")[0][:200] or type(error).__name__

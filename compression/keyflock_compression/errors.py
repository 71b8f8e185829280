"""The errors of specs and of encoded bytes; decoding refuses everything with one of these.

    CodecError
    ├── SpecError            the spec cannot be used: unknown codec, value out of range
    ├── MalformedContainer   the bytes are not a container, or a stream does not hold what it must
    ├── CorruptedContainer   the digest does not match: the bytes changed on the way
    ├── LimitExceeded        decoding would take more memory than allowed
    ├── WrongSpec            encoded with another spec than the one that was assigned
    ├── WrongLayout          encoded for another model
    ├── WrongBase            a model's delta that does not lead from this model to that one
    └── NonFinite            a scale or a value is NaN or infinite

The code is stable: servers count by it and SDKs may switch on it.
"""

from typing import ClassVar


class CodecError(ValueError):
    """The bytes or the spec are wrong, by fault of their author; the message says what is wrong."""

    code: ClassVar[str] = "codec_error"


class SpecError(CodecError):
    """The spec cannot be used; the message names the field."""

    code = "invalid_spec"


class MalformedContainer(CodecError):
    """The bytes are not a container of this version, or a stream does not hold what it must."""

    code = "malformed"


class CorruptedContainer(CodecError):
    """The digest does not match the content."""

    code = "corrupted"


class LimitExceeded(CodecError):
    """Decoding would take more memory than the limits allow."""

    code = "too_large"


class WrongSpec(CodecError):
    """The container was encoded with another spec than the one that was asked for."""

    code = "wrong_spec"


class WrongLayout(CodecError):
    """The container was encoded for parameters that are laid out otherwise."""

    code = "wrong_layout"


class WrongBase(CodecError):
    """A delta between models does not lead from the base at hand to the model that is wanted."""

    code = "wrong_base"


class NonFinite(CodecError):
    """A scale or a value is NaN or infinite."""

    code = "non_finite"

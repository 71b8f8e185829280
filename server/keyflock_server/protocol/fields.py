"""The types of the protocol's fields, with their bounds, and the base of all its messages."""

from typing import Annotated

from msgspec import Meta, Struct

from keyflock_server.protocol.identifiers import ModelVersion

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")]
Locale = Annotated[str, Meta(min_length=2, max_length=35, pattern=r"^[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*\Z")]
#: A secret that the app holds, or a signed statement of its backend.
UserProof = Annotated[str, Meta(min_length=1, max_length=4_096)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
VersionNumber = Annotated[ModelVersion, Meta(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=31_536_000.0)]
Sha256 = Annotated[bytes, Meta(min_length=32, max_length=32)]
#: The steps that a phone went through, one character each (docs/protocol.md).
SessionShape = Annotated[str, Meta(max_length=32, pattern=r"^[-v\[\]+^#*!]*\Z")]
#: A number of 53 bits: the largest whole numbers that JavaScript has exactly.
Seed = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Tag = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9][a-z0-9_.\-]*\Z")]

#: Weights by how the user's history matches the context (rows, each adds up to 1), and by expert: trunk,
#: head, n-gram, cache.
Mixtures = Annotated[
    tuple[Annotated[tuple[Fraction, ...], Meta(min_length=4, max_length=4)], ...],
    Meta(min_length=7, max_length=7),
]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages; they are encoded by field name, and defaults are left out."""

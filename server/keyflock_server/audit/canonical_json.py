"""JSON in which equal values have equal bytes, so that a digest says something about values."""

from collections.abc import Mapping
from typing import Any

import msgspec

#: A whole document: what a subject's rows say, by the names of their fields.
Document = Mapping[str, Any]


def canonical_json(value: object) -> str:
    """Return a value as JSON: sorted keys, no spaces, instants in ISO 8601, bytes in base64."""
    return msgspec.json.encode(value, order="sorted").decode()

"""The differences between two documents, field by field and at any depth."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs; None stands for a value that is null or not there."""

    #: The way to the field: names joined by dots.
    path: str
    before: Any
    after: Any


def field_changes(before_json: str | None, after_json: str | None) -> list[FieldChange]:
    """Return the fields that differ between two documents, ordered by path.

    Lists are compared as wholes: an element has no name that would say which one it was.
    """
    before = {} if before_json is None else json.loads(before_json)
    after = {} if after_json is None else json.loads(after_json)
    return list(_changes("", before, after))


def _changes(path: str, before: object, after: object) -> Iterator[FieldChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            below = f"{path}.{name}" if path else str(name)
            yield from _changes(below, before.get(name), after.get(name))
    elif before != after:
        yield FieldChange(path, before, after)

"""Operators' roles: what the bearer of a token may do."""

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """A role; each may do what the weaker ones may."""

    #: Reads.
    VIEWER = "viewer"
    #: Steers tasks, rounds, devices and releases.
    OPERATOR = "operator"
    #: Creates and deletes populations, and hands out tokens.
    ADMIN = "admin"

    def includes(self, needed: "Role") -> bool:
        """Return whether this role may do what ``needed`` may."""
        return _RANKS[self] >= _RANKS[needed]


_RANKS: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}

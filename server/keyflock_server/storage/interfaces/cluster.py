"""The interface to the values that all processes over one store agree on."""

from collections.abc import Sequence
from typing import Protocol


class ClusterRepository(Protocol):
    """Stores the named values that all processes over one store agree on."""

    async def get(self, name: str) -> str | None:
        """Return the value of that name, or None."""
        ...

    async def claim(self, name: str, value: str) -> str:
        """Store this value unless the name has one, and return the stored value."""
        ...

    async def replace(self, name: str, before: str, value: str) -> None:
        """Replace a value; raises Superseded if the stored one is not ``before``."""
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """Delete the values of these names."""
        ...

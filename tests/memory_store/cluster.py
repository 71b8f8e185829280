"""The values that all processes agree on, in memory."""

from collections.abc import Sequence

from keyflock_server.storage.errors import Superseded


class MemoryClusterRepository:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, name: str) -> str | None:
        """Return the value of that name, or None."""
        return self._values.get(name)

    async def claim(self, name: str, value: str) -> str:
        """Store this value unless the name has one, and return the stored value."""
        return self._values.setdefault(name, value)

    async def replace(self, name: str, before: str, value: str) -> None:
        """Replace a value; raises Superseded if the stored one is not ``before``."""
        if self._values.get(name) != before:
            raise Superseded
        self._values[name] = value

    async def forget(self, names: Sequence[str]) -> None:
        """Delete the values of these names."""
        for name in names:
            self._values.pop(name, None)

"""The record that an installation was backed up: when the rows of its newest backup were read.

It is one of the values that all processes over a store agree on, so every server shows the backup's age.
"""

from datetime import UTC, datetime
from typing import Final

from keyflock_server.storage.interfaces.cluster import ClusterRepository

_NAME: Final = "newest_backup_at"


async def note_backup(cluster: ClusterRepository, at: datetime) -> None:
    """Note that there is a whole backup of this instant; raises Superseded if another is noted just now."""
    value = at.astimezone(UTC).isoformat()
    before = await cluster.claim(_NAME, value)
    if before != value:
        await cluster.replace(_NAME, before, value)


async def newest_backup_at(cluster: ClusterRepository) -> datetime | None:
    """Return of which instant the newest backup is; None where none was ever made."""
    value = await cluster.get(_NAME)
    return None if value is None else datetime.fromisoformat(value)

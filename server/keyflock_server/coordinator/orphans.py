"""Blobs that no row points to: a crash left them between a blob and its transaction."""

from keyflock_server.coordinator.surroundings import Surroundings


async def collect_orphans(world: Surroundings) -> int:
    """Delete them; for a process that shares its store with nobody.

    Returns:
        How many there were.
    """
    store = world.store
    wanted: set[str] = set()
    for record in await store.rounds.unfinished():
        wanted.update(record.blob_keys)
        wanted.update(row.key for row in await store.rounds.partials(record.round.id))
    for version in await store.populations.versions():
        wanted |= set(version.blob_keys)
    wanted |= {one.average_key for one in await store.populations.all() if one.average_key}
    wanted |= {task.optimizer_state_key for task in await store.tasks.all() if task.optimizer_state_key}
    orphans = [key async for key in world.blobs.list_keys() if key not in wanted]
    for key in orphans:
        await world.blobs.delete(key)
    return len(orphans)

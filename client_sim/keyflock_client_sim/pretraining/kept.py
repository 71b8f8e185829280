"""Pre-training that is done once: the checkpoint is kept in the user's cache under what was ordered."""

from collections.abc import Callable
from pathlib import Path

from keyflock_client_sim.pretraining.driver import pretrain
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.pretraining.progress import Progress, write_whole
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint, CheckpointError


def kept(order: PretrainingOrder, folder: Path) -> Checkpoint | None:
    """The checkpoint of an earlier run of the same order; None where there is none, or a broken one."""
    try:
        return Checkpoint.from_bytes(_path(order, folder).read_bytes())
    except (FileNotFoundError, CheckpointError):
        return None


async def pretrained(
    order: PretrainingOrder,
    pool: WorkerPool,
    *,
    folder: Path,
    clock: Callable[[], float],
    on_progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """The checkpoint that was ordered, from the cache folder if it was made before.

    Args:
        order: What is to be trained.
        pool: Looked at for its compilation cache only. Training, where it must be, has a worker of its own
            with all cores, while this pool's idle.
        folder: Where checkpoints are kept, such as ``user_cache_folder(...) / "pretrained"``.
        clock: Seconds that only go forward.
        on_progress: Told while there is training; not at all where there is none.
    """
    found = kept(order, folder)
    if found is not None:
        return found
    async with WorkerPool.undivided(compilation_cache=pool.compilation_cache) as trainer:
        checkpoint = await pretrain(order, trainer, clock=clock, on_progress=on_progress)
    write_whole(checkpoint.to_bytes(), _path(order, folder))
    return checkpoint


def _path(order: PretrainingOrder, folder: Path) -> Path:
    return folder / f"{order.key}.safetensors"

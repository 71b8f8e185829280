"""A pre-trained checkpoint is cached in the user's cache folder under the key of its spec."""

from collections.abc import Callable
from pathlib import Path

from keyflock_client_sim.pretraining.driver import pretrain
from keyflock_client_sim.pretraining.progress import PretrainingProgress, write_atomically
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError


def load_cached(spec: PretrainingSpec, folder: Path) -> Checkpoint | None:
    """Return the checkpoint of an earlier run of the same spec; None where there is none, or a broken one."""
    try:
        return Checkpoint.from_bytes(_path(spec, folder).read_bytes())
    except (FileNotFoundError, CheckpointError):
        return None


async def load_or_pretrain(
    spec: PretrainingSpec,
    pool: WorkerPool,
    *,
    folder: Path,
    clock: Callable[[], float],
    on_progress: Callable[[PretrainingProgress], None] | None = None,
) -> Checkpoint:
    """Return the checkpoint of a spec, from the cache folder if it was made before.

    Args:
        spec: What is to be trained.
        pool: Only its compilation cache is used. Training, where needed, has a worker of its own
            with all cores, while this pool's idle.
        folder: The folder of cached checkpoints, such as ``user_cache_folder(...) / "pretrained"``.
        clock: Seconds that only go forward.
        on_progress: Called while there is training; not at all where there is none.
    """
    found = load_cached(spec, folder)
    if found is not None:
        return found
    async with WorkerPool.single_worker(compilation_cache=pool.compilation_cache) as trainer:
        checkpoint = await pretrain(spec, trainer, clock=clock, on_progress=on_progress)
    write_atomically(checkpoint.to_bytes(), _path(spec, folder))
    return checkpoint


def _path(spec: PretrainingSpec, folder: Path) -> Path:
    return folder / f"{spec.key}.safetensors"

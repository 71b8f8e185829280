"""A worker starts in this environment: its threads, the CPU, and a compilation cache that outlives it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Variables that set how many threads a library starts. ``NPROC`` sizes the pool of XLA's CPU client.
THREAD_COUNTS: Final = (
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def worker_environment(
    base: Mapping[str, str], *, threads: int, compilation_cache: Path | None
) -> dict[str, str]:
    """Return the parent's environment with the variables that libraries read when they load.

    Args:
        base: The parent's own environment.
        threads: The number of threads of a worker.
        compilation_cache: The folder that caches compiled programs between runs; None caches none.
    """
    environment = {**base, **dict.fromkeys(THREAD_COUNTS, str(threads))}
    environment |= {
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if compilation_cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
            # Everything here is used again by the next worker and the next run, however quick to compile.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return environment

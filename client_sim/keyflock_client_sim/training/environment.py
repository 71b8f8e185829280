"""The environment that a worker starts in: one thread, the CPU, and a compilation cache that outlives it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Read by XLA, Eigen, OpenBLAS and friends when they load, so they must stand before the first import.
ONE_THREAD: Final[Mapping[str, str]] = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    # Sizes the thread pool of XLA's CPU client, which the flag above leaves alone.
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def worker_environment(base: Mapping[str, str], compilation_cache: Path | None) -> dict[str, str]:
    """The parent's environment with everything that would start a second thread switched off.

    Args:
        base: The parent's own environment.
        compilation_cache: Where compiled programs are kept between runs; None keeps none.
    """
    environment = {**base, **ONE_THREAD}
    if compilation_cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
            # Everything here is used again by the next worker and the next run, however quick to compile.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return environment

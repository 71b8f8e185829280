"""The machine that figures come from."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Return the machine and the libraries that matter, in one line; it does not name the host."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy", "aiohttp"))
    return f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, {libraries}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

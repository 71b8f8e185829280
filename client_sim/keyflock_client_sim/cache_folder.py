"""The user's cache folder holds what costs time to make again: compiled programs, pre-trained models."""

import sys
from collections.abc import Mapping
from pathlib import Path


def user_cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder ``keyflock`` in this user's cache: it may be deleted at any time, or not exist yet.

    Args:
        environment: ``XDG_CACHE_HOME`` and ``HOME`` are read from it.

    Source:
        XDG Base Directory Specification 0.8; Apple's ``~/Library/Caches`` on macOS.
    """
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # the specification says that a relative path is to be ignored
        return named / "keyflock"
    home = Path(environment.get("HOME") or Path.home())
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "keyflock"

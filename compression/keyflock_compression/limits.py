"""Limits on what decoding may take, whatever the bytes say."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Bounds that decoding checks before it allocates anything of that size."""

    #: Length of the whole container.
    max_container_bytes: int = 16_777_216
    #: Number of parameters in the layout, and so in any decoded stream.
    max_parameters: int = 50_000_000
    #: Memory that one zstd frame may ask for while it is decoded.
    max_window_bytes: int = 8_388_608


DEFAULT_LIMITS: Final = DecodeLimits()

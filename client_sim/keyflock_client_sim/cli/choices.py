"""Choices as help pages show them; what they stand for is not imported, because that loads JAX."""

from typing import Final

SIZES: Final = "full|medium|small|tiny"
PROFILES: Final = "demo|realistic|heavy_tailed|ideal|FILE.toml"
DATA: Final = "shakespeare|FILE.jsonl[.gz]"

#: Every seed up to here is exact in each part that takes one (JAX's have 64 bits with a sign), and in JSON.
MAX_SEED: Final = 2**53 - 1

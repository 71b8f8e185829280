"""The fuzzer is worth something: it finds nothing in the decoder, and a bug that is planted there."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import zstandard
from tests.fuzz.compression import codec_fuzzer
from tests.fuzz.compression.codec_fuzzer import fuzz

from keyflock_compression import CodecSpec, DecodeLimits, entropy, positions
from keyflock_compression.cells import Cells, cells_of
from keyflock_compression.container import read_expected
from keyflock_compression.layout import Layout


def test_thousands_of_hostile_inputs_break_no_promise() -> None:
    outcomes: Counter[str] = Counter()

    assert fuzz(4_000, seed=1, outcomes=outcomes) is None

    # It gets behind the digest, and past every check, often enough to mean something.
    assert outcomes["malformed"] > 1_000
    assert outcomes["update"] > 200
    assert {"corrupted", "non_finite"} <= set(outcomes)


def test_a_decoder_that_forgets_where_a_cell_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ends(layout: Layout) -> Cells:
        cells = cells_of(layout)
        return cells._replace(lengths=np.full_like(cells.lengths, 2**40))

    monkeypatch.setattr(positions, "cells_of", without_ends)

    finding = fuzz(20_000, seed=1)

    assert finding is not None
    assert "IndexError" in finding.what or "what is added" in finding.what


def test_a_short_way_that_forgets_the_digest_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(data: bytes, spec: CodecSpec, layout: bytes, limits: DecodeLimits) -> object:
        digest = hashlib.blake2b(b"\x85" + data[1:-17], digest_size=8).digest()
        return read_expected(data[:-8] + digest, spec, layout, limits)

    monkeypatch.setattr(codec_fuzzer, "read_expected", forgetful)

    finding = fuzz(20_000, seed=1)

    assert finding is not None
    assert "digest" in finding.what


def test_a_decoder_that_believes_a_frame_about_its_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def believing(frame: bytes, *_: object) -> bytes:
        return bytes(zstandard.ZstdDecompressor().decompress(frame))

    monkeypatch.setattr(entropy, "decompress", believing)

    assert fuzz(20_000, seed=1) is not None

"""docs/wire_format.md says what the code does: settings, defaults, digests, kinds of error."""

import hashlib
import inspect
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tests.wire.compression.write_vectors import LAYOUT, VECTORS

from keyflock_compression import (
    CodecError,
    DeadzoneRowsSpec,
    DeadzoneSpec,
    SpecError,
    WrongSpec,
    decode,
    encode,
    errors,
    parse_spec,
)
from keyflock_compression.container import Container
from keyflock_compression.spec import SETTINGS
from keyflock_server.aggregation.verdicts import verdict_for
from keyflock_server.coordinator.report_intake import _CODES
from keyflock_server.protocol.problems import ProblemCode

pytestmark = pytest.mark.fault("F15")

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "wire_format.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header begins with ``header``."""
    table = PAGE[PAGE.index(f"| {header} |") :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:] if line]


def test_the_page_lists_every_setting_in_the_order_of_the_wire() -> None:
    told = PAGE.split("always in this order:\n")[1].split(". ")[0]

    assert re.findall(r"`(\w+)`", told) == list(SETTINGS)


def test_what_a_map_leaves_out_means_what_the_page_says() -> None:
    told = {row[0].strip("`"): row[2].strip("`") for row in rows("setting | values")}

    spec = parse_spec({"step_rms": 0.5})
    left_out = {"codec", "rounding", "entropy", "zstd_level"}
    assert told == {name: str(value) for name, value in spec.to_wire().items() if name in left_out}


@pytest.mark.parametrize("level", [1, 19])
def test_the_levels_at_the_ends_are_taken(level: int) -> None:
    assert parse_spec({"codec": "dense", "zstd_level": level}).zstd_level == level
    assert f"an integer, {1} to {19}" in PAGE


@pytest.mark.parametrize("level", [0, 20, 3.0, -1, True])
def test_no_other_level_is(level: object) -> None:
    with pytest.raises(SpecError, match="zstd_level"):
        parse_spec({"codec": "dense", "zstd_level": level})


def test_two_and_two_point_zero_are_the_same_number_in_a_spec() -> None:
    """A language without integers of their own cannot tell them apart."""
    delta = np.arange(10, dtype=np.float32)
    container = encode(delta, LAYOUT, DeadzoneSpec(step_rms=2, entropy="none"), seed=0)

    update = decode(container, LAYOUT, spec=DeadzoneSpec(step_rms=2.0, entropy="none"))

    assert update.size == 10
    with pytest.raises(WrongSpec):
        decode(container, LAYOUT, spec=DeadzoneSpec(step_rms=2.5, entropy="none"))


def test_a_settings_order_is_part_of_the_container() -> None:
    spec = DeadzoneSpec(step_rms=2, entropy="none").to_wire()
    turned = dict(reversed(spec.items()))
    streams = (bytes(10), b"")

    as_it_is = Container(spec, LAYOUT.digest, bytes(4), streams).to_bytes()
    reordered = Container(turned, LAYOUT.digest, bytes(4), streams).to_bytes()

    assert decode(as_it_is, LAYOUT).size == 10
    with pytest.raises(CodecError, match="another order"):
        decode(reordered, LAYOUT)


def test_the_digest_is_blake2b_of_length_eight_and_no_part_of_a_longer_one() -> None:
    told = re.search(r"Of no bytes it is `([0-9a-f]{16})`", PAGE)
    assert told is not None

    assert hashlib.blake2b(b"", digest_size=8).hexdigest() == told[1]
    assert hashlib.blake2b(b"").hexdigest()[:16] != told[1]
    data = (VECTORS / "dense_none.bin").read_bytes()
    signed = b"\x85" + data[1 : data.rindex(b"\xa6digest")]
    assert data.endswith(b"\xa6digest\xc4\x08" + hashlib.blake2b(signed, digest_size=8).digest())


@pytest.mark.parametrize("kind", [DeadzoneSpec, DeadzoneRowsSpec])
def test_the_step_is_rounded_to_float32_before_it_divides_and_multiplies(
    kind: type[DeadzoneSpec | DeadzoneRowsSpec],
) -> None:
    """In double precision some of these quotients would round to the whole number beside."""
    rng = np.random.default_rng(1)
    differs = 0
    for ratio in rng.uniform(0.3, 0.9, 400):
        delta = rng.standard_normal(10).astype(np.float32)
        container = encode(delta, LAYOUT, kind(step_rms=float(ratio), entropy="none"), seed=0)
        decoded = decode(container, LAYOUT).dense()

        largest = np.float32(np.abs(delta).max())
        relative = delta / largest
        rms = float(np.sqrt(np.dot(relative, relative) / delta.size))
        in_double = max(float(ratio) * rms, 2.0**-23) * float(largest)
        step = np.float32(in_double)
        np.testing.assert_array_equal(decoded, np.rint(delta / step) * step)
        exact = delta.astype(np.float64)
        differs += not np.array_equal(decoded, (np.rint(exact / in_double) * in_double).astype(np.float32))

    assert differs > 50  # so the precision of the step can be seen


def test_the_page_lists_every_kind_of_error_and_the_code_that_a_phone_hears() -> None:
    kinds = {
        kind.code: kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, CodecError) and kind is not CodecError
    }
    told = {row[0].strip("`"): row[2] for row in rows("kind")}

    assert set(told) == set(kinds)
    for code, kind in kinds.items():
        if code != "wrong_base":
            heard = _CODES.get(verdict_for(kind("")), ProblemCode.MALFORMED_DELTA)
            assert told[code] == f"`{heard}`"


def test_every_kind_of_error_in_a_vector_is_on_the_page() -> None:
    told = {row[0].strip("`") for row in rows("kind")}
    named = {
        tomllib.loads(path.read_text())["error"]
        for folder in ("compression", "weights_delta")
        for path in (VECTORS.parent / folder).glob("malformed_*.toml")
    }

    assert named <= told
    assert "invalid_spec" in named

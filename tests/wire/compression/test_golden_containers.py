"""The bytes on the wire stay what they are: phones in the field cannot be rebuilt."""

import tomllib

import numpy as np
import pytest
from tests.wire.compression.write_vectors import LAYOUT, SPECS, VECTORS, malformed

from keyflock_compression import CodecError, decode, encode, parse_spec

GOOD = sorted(path.stem for path in VECTORS.glob("*.bin") if not path.stem.startswith("malformed_"))
BAD = sorted(path.stem for path in VECTORS.glob("malformed_*.bin"))


def test_every_codec_and_every_kind_of_malformed_input_has_its_vector() -> None:
    assert set(GOOD) >= set(SPECS)
    assert set(BAD) >= {f"malformed_{name}" for name, *_ in malformed()}


@pytest.mark.parametrize("name", GOOD)
def test_a_delta_encodes_to_its_golden_bytes_and_back(name: str) -> None:
    data = (VECTORS / f"{name}.bin").read_bytes()
    meaning = tomllib.loads((VECTORS / f"{name}.toml").read_text())
    spec, delta = parse_spec(meaning["spec"]), np.array(meaning["delta"], np.float32)

    seed = meaning.get("seed", 0)
    decoded = decode(data, LAYOUT, spec=spec, seed=seed).dense()

    # zstd may find other bytes for the same content in another release; what they say must not change.
    if spec.entropy == "none":
        assert encode(delta, LAYOUT, spec, seed=seed) == data
    again = decode(encode(delta, LAYOUT, spec, seed=seed), LAYOUT).dense()
    np.testing.assert_array_equal(again, decoded)
    if spec.codec == "float32":
        np.testing.assert_array_equal(decoded, delta)


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_container_is_refused_with_its_code(name: str) -> None:
    meaning = tomllib.loads((VECTORS / f"{name}.toml").read_text())

    with pytest.raises(CodecError) as error:
        decode((VECTORS / f"{name}.bin").read_bytes(), LAYOUT)

    assert error.value.code == meaning["error"]

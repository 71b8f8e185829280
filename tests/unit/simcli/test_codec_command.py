"""``keyflock-sim codec``: what the author of another SDK compares bytes with."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from keyflock_client_sim.cli.codec import codec
from keyflock_client_sim.cli.failures import SimulatorError

VECTORS = Path(__file__).resolve().parents[2] / "wire" / "vectors" / "compression"
SPEC = '{"codec": "deadzone_rows", "step_rms": 0.01, "entropy": "none"}'


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(codec, [str(argument) for argument in arguments])
    if isinstance(result.exception, SimulatorError):
        raise result.exception
    return result


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "layout.json"
    path.write_text('[["kernel", "bias"], [[2, 3], [4]]] ')  # 36 bytes: nine float32 values, too
    return path


def test_a_vector_goes_into_a_container_and_comes_back(layout: Path, tmp_path: Path) -> None:
    delta = np.array([0, 1, -1, 0, 0, 0, 100, 0, 0, -2], "<f4")
    (tmp_path / "delta.f32").write_bytes(delta.tobytes())

    run("encode", tmp_path / "delta.f32", tmp_path / "report.bin", "--layout", layout, "--spec", SPEC)
    output = run("decode", tmp_path / "report.bin", tmp_path / "back.f32", "--layout", layout).stdout
    inspected = json.loads(run("inspect", tmp_path / "report.bin").stdout)

    assert output == "10 values, norm 99.985\n"
    back = np.frombuffer((tmp_path / "back.f32").read_bytes(), "<f4")
    np.testing.assert_allclose(back, delta, atol=0.16)
    assert inspected["spec"]["codec"] == "deadzone_rows"
    assert [stream["content_bytes"] for stream in inspected["streams"]] == [1, 3, 4, 1, 4, 4]


@pytest.mark.parametrize(
    "spec",
    [
        {"codec": "randmask", "keep_ratio": 1.0},
        {"codec": "rowset", "bits": 16, "step": 0.0078125, "row_start": 0, "row_count": 2},
        {"codec": "rotated", "bits": 4},
        {"codec": "dense", "bits": 4},
        {"codec": "topk", "keep_ratio": 1.0, "selection": "sampled"},
    ],
    ids=lambda spec: spec["codec"],
)
def test_every_codec_is_a_json_object_away(layout: Path, tmp_path: Path, spec: dict[str, object]) -> None:
    delta = np.array([0, 1, -1, 0, 0, 0, 100, 0, 0, -2], "<f4")
    (tmp_path / "delta.f32").write_bytes(delta.tobytes())

    output = ("--layout", layout, "--spec", json.dumps(spec), "--seed", "7")
    run("encode", tmp_path / "delta.f32", tmp_path / "report.bin", *output)
    run("decode", tmp_path / "report.bin", tmp_path / "back.f32", "--layout", layout, "--seed", "7")

    back = np.frombuffer((tmp_path / "back.f32").read_bytes(), "<f4")
    assert np.linalg.norm(back - delta) < 0.2 * np.linalg.norm(delta)


def test_another_seed_than_the_assignment_s_is_refused(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "delta.f32").write_bytes(np.ones(10, "<f4").tobytes())
    spec = '{"codec": "rotated", "bits": 2}'
    run(
        "encode",
        tmp_path / "delta.f32",
        tmp_path / "r.bin",
        "--layout",
        layout,
        "--spec",
        spec,
        "--seed",
        "7",
    )

    with pytest.raises(SimulatorError, match="wrong_spec: the container was encoded with another seed"):
        run("decode", tmp_path / "r.bin", tmp_path / "back.f32", "--layout", layout, "--seed", "8")


def test_a_model_s_size_is_a_layout_too(tmp_path: Path) -> None:
    (tmp_path / "delta.f32").write_bytes(bytes(8))

    with pytest.raises(SimulatorError, match=r"wrong_layout: the delta has shape \(2,\)"):
        run("encode", tmp_path / "delta.f32", tmp_path / "report.bin", "--layout", "tiny")
    with pytest.raises(SimulatorError, match="no model size 'huge'"):
        run("encode", tmp_path / "delta.f32", tmp_path / "report.bin", "--layout", "huge")


def test_a_refusal_has_the_server_s_own_code(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="corrupted"):
        run("inspect", VECTORS / "malformed_flipped.bin")
    with pytest.raises(SimulatorError, match="wrong_layout"):
        run("decode", VECTORS / "deadzone_rows_none.bin", tmp_path / "back.f32", "--layout", layout)
    with pytest.raises(SimulatorError, match="invalid_spec: codec is 'gzip'"):
        run("encode", layout, tmp_path / "x", "--layout", layout, "--spec", '{"codec": "gzip"}')

"""Runs that are kept in the user's cache, each under all that decides it, so that a study can be cut off."""

import hashlib
from importlib.metadata import version as distribution_version
from pathlib import Path

import msgspec
import numpy as np

from keyflock_client_sim.pretraining.progress import write_whole
from keyflock_client_sim.studies.compression_rounds import arm_toml
from keyflock_client_sim.studies.compression_run import ArmRun, Laboratory
from keyflock_compression import CodecSpec, decode, encode
from keyflock_models.layout import ParamLayout


def kept(laboratory: Laboratory, spec: CodecSpec, seed: int, folder: Path) -> ArmRun | None:
    """The run as an earlier study left it; None where there is none, or a broken one."""
    try:
        return msgspec.json.decode(_path(laboratory, spec, seed, folder).read_bytes(), type=ArmRun)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def keep(run: ArmRun, laboratory: Laboratory, spec: CodecSpec, folder: Path) -> None:
    """Writes the run; a reader sees the whole of it or nothing."""
    write_whole(msgspec.json.encode(run), _path(laboratory, spec, run.seed, folder))


def _path(laboratory: Laboratory, spec: CodecSpec, seed: int, folder: Path) -> Path:
    options = laboratory.options
    hashed = hashlib.sha256()
    for part in (
        distribution_version("keyflock"),
        arm_toml(spec, goal=options.goal, rounds=options.rounds),
        f"{options.every} {seed}",
    ):
        hashed.update(part.encode() + b"\n")
    hashed.update(hashlib.sha256(laboratory.start.to_bytes()).digest())
    for sequences in (laboratory.phones, laboratory.held_out):
        for name, rows in sequences.items():
            hashed.update(f"{name} {rows.shape}\n".encode())
            hashed.update(rows.tobytes())
        hashed.update(b"\n")
    hashed.update(_habits(spec, ParamLayout.of(laboratory.start.config)))
    return folder / f"compression-{hashed.hexdigest()[:32]}.json"


def _habits(spec: CodecSpec, layout: ParamLayout) -> bytes:
    """What this build makes of a fixed vector: a codec that was changed has other runs."""
    vector = np.random.default_rng(0).standard_t(2, layout.size).astype(np.float32)
    container = encode(vector, layout, spec, seed=0)
    return hashlib.sha256(container + decode(container, layout).dense().tobytes()).digest()

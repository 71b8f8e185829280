"""Results are cached under a key of all their inputs, so that an experiment can be interrupted."""

import hashlib
from importlib.metadata import version as distribution_version
from pathlib import Path

import msgspec
import numpy as np

from keyflock_client_sim.experiments.compression.run import ArmResult, CompressionExperiment
from keyflock_client_sim.experiments.compression.training_rounds import arm_toml
from keyflock_client_sim.pretraining.progress import write_atomically
from keyflock_compression import CodecSpec, decode, encode
from keyflock_models.network.layout import ParamLayout


def load_result(
    experiment: CompressionExperiment, spec: CodecSpec, seed: int, folder: Path
) -> ArmResult | None:
    """Return the cached result; None where there is none, or a broken one."""
    try:
        return msgspec.json.decode(_path(experiment, spec, seed, folder).read_bytes(), type=ArmResult)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def save_result(result: ArmResult, experiment: CompressionExperiment, spec: CodecSpec, folder: Path) -> None:
    """Write the result; a reader sees the whole of it or nothing."""
    write_atomically(msgspec.json.encode(result), _path(experiment, spec, result.seed, folder))


def _path(experiment: CompressionExperiment, spec: CodecSpec, seed: int, folder: Path) -> Path:
    options = experiment.options
    hashed = hashlib.sha256()
    for part in (
        distribution_version("keyflock"),
        arm_toml(spec, goal=options.goal, rounds=options.rounds),
        f"{options.every} {seed}",
    ):
        hashed.update(part.encode() + b"\n")
    hashed.update(hashlib.sha256(experiment.start.to_bytes()).digest())
    for sequences in (experiment.phones, experiment.held_out):
        for name, rows in sequences.items():
            hashed.update(f"{name} {rows.shape}\n".encode())
            hashed.update(rows.tobytes())
        hashed.update(b"\n")
    hashed.update(_codec_fingerprint(spec, ParamLayout.for_config(experiment.start.config)))
    return folder / f"compression-{hashed.hexdigest()[:32]}.json"


def _codec_fingerprint(spec: CodecSpec, layout: ParamLayout) -> bytes:
    """Return a digest of this build's encoding of a fixed vector: a changed codec has other results."""
    vector = np.random.default_rng(0).standard_t(2, layout.size).astype(np.float32)
    container = encode(vector, layout, spec, seed=0)
    return hashlib.sha256(container + decode(container, layout).dense().tobytes()).digest()

"""``keyflock-sim codec`` encodes, decodes and inspects containers, for authors of SDKs in other languages.

Vectors are files of float32, little-endian, nothing else: what any language can write in one line.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyflock_client_sim.cli.choices import SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode

if TYPE_CHECKING:
    from keyflock_models.network.layout import ParamLayout

codec = typer.Typer(no_args_is_help=True, help="Encode, decode and inspect the bytes of deltas and models.")

LayoutOption = Annotated[
    str,
    typer.Option(
        metavar=f"{SIZES}|FILE",
        help="A model's size, or a JSON file [[NAME, ...], [[SIZE, ...], ...]].",
    ),
]
ContainerArgument = Annotated[Path, typer.Argument(help="The bytes of a delta or a model.")]


@codec.command()
def encode(
    vector: Annotated[Path, typer.Argument(help="The delta: float32, little-endian.")],
    out: Annotated[Path, typer.Argument(help="Where the container goes.")],
    *,
    layout: LayoutOption = "full",
    spec: Annotated[
        str, typer.Option(metavar="JSON", help="The codec's settings; left out: a task's default.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Of stochastic rounding, and of what a codec draws.")
    ] = 0,
) -> None:
    """Encode a vector as a container, as an assignment with this spec asks for."""
    import numpy as np

    from keyflock_compression import DEFAULT_SPEC, CodecError, parse_spec
    from keyflock_compression import encode as encoded

    data = vector.read_bytes()
    if len(data) % 4:
        raise SimulatorError(
            f"{vector}: {len(data)} bytes are not whole float32 values.", SimulatorExitCode.INPUT
        )
    try:
        wanted = parse_spec(_map(spec)) if spec else DEFAULT_SPEC
        container = encoded(np.frombuffer(data, "<f4").astype(np.float32), _layout(layout), wanted, seed=seed)
    except CodecError as error:
        raise SimulatorError(f"{error.code}: {error}", SimulatorExitCode.INPUT) from None
    out.write_bytes(container)
    bits = 8 * len(container) / max(1, len(data) // 4)
    sys.stdout.write(f"{len(container)} bytes, {bits:.3f} bits a parameter\n")


@codec.command()
def decode(
    container: ContainerArgument,
    out: Annotated[Path, typer.Argument(help="Where the vector goes: float32, little-endian.")],
    *,
    layout: LayoutOption = "full",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="What it must have drawn from; left out: any.")
    ] = None,
) -> None:
    """Decode a container into a vector, or print the server's own reason why not."""
    from keyflock_compression import CodecError
    from keyflock_compression import decode as decoded

    try:
        update = decoded(container.read_bytes(), _layout(layout), seed=seed)
    except CodecError as error:
        raise SimulatorError(f"{container}: {error.code}: {error}", SimulatorExitCode.INPUT) from None
    out.write_bytes(update.dense().astype("<f4").tobytes())
    sys.stdout.write(f"{update.size} values, norm {update.l2_norm:.6g}\n")


@codec.command()
def inspect(container: ContainerArgument) -> None:
    """Print a container's description as JSON; nothing is decoded, so no layout is needed."""
    import msgpack
    import zstandard

    from keyflock_compression import CodecError
    from keyflock_compression.container import parse
    from keyflock_compression.limits import DEFAULT_LIMITS

    data = container.read_bytes()
    try:
        inside = parse(data, DEFAULT_LIMITS)
    except CodecError as error:
        raise SimulatorError(f"{container}: {error.code}: {error}", SimulatorExitCode.INPUT) from None

    def content_bytes(stream: bytes) -> int | None:
        if inside.spec.get("entropy") != "zstd":
            return len(stream)
        try:
            return int(zstandard.frame_content_size(stream))
        except zstandard.ZstdError:
            return None

    description = {
        "bytes": len(data),
        "spec": inside.spec,
        "layout": inside.layout.hex(),
        "scales": len(inside.scales) // 4,
        "streams": [{"bytes": len(one), "content_bytes": content_bytes(one)} for one in inside.streams],
        "digest": msgpack.unpackb(data)["digest"].hex(),
    }
    sys.stdout.write(json.dumps(description, default=str, indent=2) + "\n")


def _map(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SimulatorError(f"--spec {text!r} is no JSON object.", SimulatorExitCode.USAGE)
    return value


def _layout(name_or_file: str) -> "ParamLayout":
    from keyflock_models.network.config import ModelConfig
    from keyflock_models.network.layout import ParamLayout

    path = Path(name_or_file)
    if not path.is_file():
        try:
            return ParamLayout.for_config(ModelConfig.named(name_or_file))
        except ValueError as error:
            raise SimulatorError(f"--layout: no such file, and {error}.", SimulatorExitCode.USAGE) from None
    try:
        names, shapes = json.loads(path.read_bytes())
        return ParamLayout(tuple(names), tuple(tuple(map(int, shape)) for shape in shapes))
    except (ValueError, TypeError) as error:
        raise SimulatorError(
            f"{path}: no layout [[NAME, ...], [[SIZE, ...], ...]]: {error}.", SimulatorExitCode.INPUT
        ) from None

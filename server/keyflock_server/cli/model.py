"""``keyflock model``: shows the versions of a population's model, compares them, saves and pins them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Limit, Reason
from keyflock_server.protocol.operator.versions import (
    COMPARE_VERSIONS,
    PIN_VERSION,
    UNPIN_VERSION,
    VERSION,
    VERSION_CHECKPOINT,
    VERSION_DOWNLOAD,
    VERSIONS,
)

COLUMNS: Final = (
    "version",
    "parent",
    "round",
    "reports",
    "anchor_loss",
    "created_at",
    "withdrawn_at",
    "pinned_at",
)
TENSOR_COLUMNS: Final = ("name", "shape", "base_norm", "distance")

Population = Annotated[str, typer.Argument(metavar="POPULATION", help="For example en-US.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="The version's number.")]

app = typer.Typer(no_args_is_help=True, help="The versions of a population's model.")


@operator_command(app, "list", is_watchable=True)
def show_all(session: OperatorSession, population: Population, limit: Limit = MAX_LIMIT) -> None:
    """List a population's versions, newest first, with where they come from."""
    session.print_list(COLUMNS, VERSIONS, {"population": population}, limit=limit)


@operator_command(app, "show")
def show(session: OperatorSession, population: Population, version: Version) -> None:
    """Show one version: where it comes from, its size, and what was measured of it."""
    session.print_fields(session.call(VERSION, _path(population, version)))


@operator_command(app, "compare")
def compare(
    session: OperatorSession,
    population: Population,
    version: Version,
    base: Annotated[int, typer.Argument(metavar="BASE", min=0, help="The version that it is compared with.")],
) -> None:
    """Show how far apart two versions are, tensor by tensor."""
    answer = session.call(COMPARE_VERSIONS, _path(population, version), query={"base": str(base)})
    if session.as_json:
        session.print_fields(answer)
        return
    session.print_fields({name: answer[name] for name in ("distance", "max_difference")})
    session.print_rows(TENSOR_COLUMNS, answer["tensors"], answer)


@operator_command(app, "save")
def save(
    session: OperatorSession,
    population: Population,
    version: Version,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.", dir_okay=False)],
    download: Annotated[
        str | None,
        typer.Option(
            "--download", help="Instead, what phones download: training, or released for keyboards."
        ),
    ] = None,
) -> None:
    """Save a version's float32 weights, with its vocabulary, as a checkpoint (safetensors)."""
    if download is None:
        body = session.read(VERSION_CHECKPOINT, _path(population, version))
    else:
        body = session.read(VERSION_DOWNLOAD, _path(population, version), {"weights": download})
    try:
        with file.open("xb") as saved:
            saved.write(body)
    except FileExistsError:
        raise CommandError(f"{file} is there already: name a new file.", ExitCode.INPUT) from None
    except OSError as error:
        file.unlink(missing_ok=True)
        raise CommandError(f"{file} cannot be written: {error.strerror}.", ExitCode.INPUT) from None
    session.print_fields({"file": str(file), "bytes": len(body)})


@operator_command(app, "pin")
def pin(session: OperatorSession, population: Population, version: Version, reason: Reason) -> None:
    """Keep a version from ever being pruned."""
    session.print_fields(session.call(PIN_VERSION, _path(population, version), order={"reason": reason}))


@operator_command(app, "unpin")
def unpin(session: OperatorSession, population: Population, version: Version, reason: Reason) -> None:
    """Let a version be pruned again as others are."""
    session.print_fields(session.call(UNPIN_VERSION, _path(population, version), order={"reason": reason}))


def _path(population: str, version: int) -> Mapping[str, str]:
    return {"population": population, "version": str(version)}

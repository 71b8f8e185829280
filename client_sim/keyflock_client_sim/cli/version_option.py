"""The option ``--version`` of every command."""

from importlib.metadata import version
from typing import Annotated

import typer


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"keyflock {version('keyflock')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]

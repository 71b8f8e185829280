"""``keyflock heads``: manages the keys that stored personal models are encrypted with."""

from pathlib import Path
from typing import Annotated

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode

app = typer.Typer(no_args_is_help=True, help="Stored heads.")


@app.callback()
def heads() -> None:
    """Manage the keys of stored heads."""


@app.command("add-key")
def add_key(
    file: Annotated[Path, typer.Argument(help="The file for serve's --head-keys; made when missing.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put a new key on top of a key file: from the server's next start on, heads are encrypted with it.

    Older lines still decrypt. The server encrypts old heads anew and says in its log when none is left; then
    the old lines may go. Keep a copy where the database is not: without the keys the heads are lost.
    """
    from keyflock_server.identity.keys import KeyFileError
    from keyflock_server.personal_models.key_ring import add_encryption_key

    try:
        keys = add_encryption_key(file)
    except KeyFileError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    if as_json:
        output.print_json({"key": keys.current.id, "retired": [key.id for key in keys.retired]})
    else:
        typer.echo(
            f"key {keys.current.id} encrypts from the next start on; {len(keys.retired)} older decrypt"
        )

"""``keyflock round``: how the rounds of a task went."""

from typing import Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.options import DataDir, Json, TokenFile, Url, connect
from keyflock_server.http import operator_calls

COLUMNS: Final = (
    "id",
    "phase",
    "assigned",
    "counted",
    "goal",
    "model_version",
    "result_version",
    "opened_at",
    "is_unsafe_flush",
)

app = typer.Typer(no_args_is_help=True, help="The rounds of a task.")


@app.command("list")
def show_all(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List a task's rounds, oldest first."""
    answer = connect(url, token_file, data_dir).call(operator_calls.ROUNDS, {"task": task})
    output.print_json(answer) if as_json else output.print_table(COLUMNS, answer["rounds"])


@app.command("show")
def show(
    round_id: Annotated[str, typer.Argument(metavar="ROUND", help="The round's id.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one round."""
    answer = connect(url, token_file, data_dir).call(operator_calls.ROUND, {"round": round_id})
    output.print_json(answer) if as_json else output.print_fields(answer)

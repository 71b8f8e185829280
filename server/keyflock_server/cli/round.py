"""``keyflock round``: shows the rounds of a task, ends open ones, and accepts or discards held ones."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.options import LONGEST_PAGE, DataDir, Json, Reason, TokenFile, Url, connect
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.rounds import (
    ABANDON_ROUND,
    ACCEPT_ROUND,
    CLOSE_ROUND,
    DISCARD_ROUND,
    ROUND,
    ROUNDS,
)

if TYPE_CHECKING:
    from keyflock_server.cli.connection import AdminConnection

COLUMNS: Final = (
    "id",
    "phase",
    "assigned",
    "counted",
    "goal",
    "model_version",
    "result_version",
    "opened_at",
    "detail",
    "is_unsafe_flush",
)

RoundName = Annotated[str, typer.Argument(metavar="ROUND", help="The round's id.")]

app = typer.Typer(no_args_is_help=True, help="The rounds of a task.")


@app.command("list")
def show_all(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List a task's rounds, newest first."""
    answer = connect(url, token_file, data_dir).call(ROUNDS, query=LONGEST_PAGE | {"task": task})
    output.print_page(COLUMNS, answer, as_json=as_json)


@app.command("show")
def show(
    round_id: RoundName,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one round."""
    answer = connect(url, token_file, data_dir).call(ROUND, {"round": round_id})
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("close")
def close(
    round_id: RoundName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Close a collecting round now, with the reports that it has, if they are its minimum."""
    connection = connect(url, token_file, data_dir)
    _decide(connection, CLOSE_ROUND, round_id, {"reason": reason}, as_json=as_json)


@app.command("abandon")
def abandon(
    round_id: RoundName,
    reason: Reason,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop its reports, although its task would carry them.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a collecting round now, without a result; its reports are carried or dropped, as its task says."""
    connection = connect(url, token_file, data_dir)
    _decide(connection, ABANDON_ROUND, round_id, {"reason": reason, "drop": drop}, as_json=as_json)


@app.command("accept")
def accept(
    round_id: RoundName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish the version of a round that is held, although it did not pass the checks."""
    connection = connect(url, token_file, data_dir)
    _decide(connection, ACCEPT_ROUND, round_id, {"reason": reason}, as_json=as_json)


@app.command("discard")
def discard(
    round_id: RoundName,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give up what the phones of a round that is held have brought; its task goes on with the next round."""
    connection = connect(url, token_file, data_dir)
    _decide(connection, DISCARD_ROUND, round_id, {"reason": reason}, as_json=as_json)


def _decide(
    connection: "AdminConnection",
    call: AnyCall,
    round_id: str,
    order: Mapping[str, object],
    *,
    as_json: bool,
) -> None:
    body = json.dumps(order).encode()
    answer = connection.call(call, {"round": round_id}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)

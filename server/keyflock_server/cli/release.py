"""``keyflock release``: which version keyboards serve, and every step from one to the next."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.options import LONGEST_PAGE, DataDir, Json, TokenFile, Url, connect
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.releases import (
    HOLD_RELEASE,
    PROMOTE_RELEASE,
    RELEASE,
    RELEASE_GATE,
    RELEASE_HISTORY,
    RELEASE_POLICY,
    RELEASES,
    ROLL_BACK_RELEASE,
    SET_RELEASE_POLICY,
    START_RELEASE,
)

COLUMNS: Final = ("population", "phase", "version", "candidate", "percent", "newest", "since", "operator")
HISTORY_COLUMNS: Final = (
    "sequence",
    "at",
    "action",
    "version",
    "candidate",
    "percent",
    "operator",
    "reason",
)

Population = Annotated[str, typer.Argument(metavar="POPULATION", help="For example en-US.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, for later readers; no user text.")]
Force = Annotated[bool, typer.Option("--force", help="Against what the gate says; takes the role admin.")]

app = typer.Typer(no_args_is_help=True, help="The versions that keyboards serve.")


@app.command("list")
def show_all(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List what the keyboards of all populations are served."""
    answer = connect(url, token_file, data_dir).call(RELEASES, query=LONGEST_PAGE)
    output.print_page(COLUMNS, answer, as_json=as_json)


@app.command("show")
def show(
    population: Population,
    device: Annotated[
        str | None, typer.Option("--device", help="A device's id, to see what it is served.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what a population's keyboards are served now, since when and why."""
    query = {} if device is None else {"device": device}
    answer = connect(url, token_file, data_dir).call(RELEASE, {"population": population}, query=query)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("history")
def history(
    population: Population,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List up to 1,000 steps of a population's release, newest first."""
    connection = connect(url, token_file, data_dir)
    answer = connection.call(RELEASE_HISTORY, {"population": population}, query=LONGEST_PAGE)
    output.print_page(HISTORY_COLUMNS, answer, as_json=as_json)


@app.command("start")
def start(
    population: Population,
    reason: Reason,
    candidate: Annotated[
        int | None, typer.Option("--candidate", min=0, help="Left out: the present one, or the newest.")
    ] = None,
    percent: Annotated[
        int | None, typer.Option("--percent", min=0, max=99, help="Left out: the policy's first stage.")
    ] = None,
    force: Force = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Serve a candidate to a stage of the devices, or to a wider one; a held candidate goes on by it."""
    order = {"candidate": candidate, "percent": percent, "is_forced": force, "reason": reason}
    _take(START_RELEASE, population, order, url, token_file, data_dir, as_json)


@app.command("promote")
def promote(
    population: Population,
    reason: Reason,
    version: Annotated[int | None, typer.Option("--version", min=0, help="Left out: the candidate.")] = None,
    force: Force = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Serve a version to everybody; unless forced, only one that passes the gate."""
    order = {"version": version, "is_forced": force, "reason": reason}
    _take(PROMOTE_RELEASE, population, order, url, token_file, data_dir, as_json)


@app.command("hold")
def hold(
    population: Population,
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Stop the candidate at its stage until somebody starts, promotes or rolls back."""
    _take(HOLD_RELEASE, population, {"reason": reason}, url, token_file, data_dir, as_json)


@app.command("rollback")
def roll_back(
    population: Population,
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option("--to", min=0, help="A version that was served before; left out: the one before."),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take the candidate back or, without one, serve the version before; phones do at their next check."""
    _take(ROLL_BACK_RELEASE, population, {"to": to, "reason": reason}, url, token_file, data_dir, as_json)


@app.command("gate")
def gate(
    population: Population,
    candidate: Annotated[
        int | None, typer.Option("--candidate", min=0, help="Left out: the present one, or the newest.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Judge a version by what phones have evaluated so far; nothing is changed."""
    query = {} if candidate is None else {"candidate": str(candidate)}
    connection = connect(url, token_file, data_dir)
    answer = connection.call(RELEASE_GATE, {"population": population}, query=query)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("policy")
def policy(
    population: Population,
    file: Annotated[
        Path | None, typer.Option("--set", help="A JSON file with another policy; takes the role admin.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="The reason, with --set.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show who promotes versions, in which stages and by which gate; or set it."""
    connection = connect(url, token_file, data_dir)
    if file is None:
        answer = connection.call(RELEASE_POLICY, {"population": population})
    else:
        order = json.dumps({"policy": _read_policy(file), "reason": reason}).encode()
        answer = connection.call(SET_RELEASE_POLICY, {"population": population}, order)
    output.print_json(answer) if as_json else output.print_fields(answer)


def _take(
    call: AnyCall,
    population: str,
    order: dict[str, Any],
    url: Url,
    token_file: TokenFile,
    data_dir: DataDir,
    as_json: bool,
) -> None:
    given = {name: value for name, value in order.items() if value is not None}
    connection = connect(url, token_file, data_dir)
    answer = connection.call(call, {"population": population}, json.dumps(given).encode())
    output.print_json(answer) if as_json else output.print_fields(answer)


def _read_policy(file: Path) -> Any:  # noqa: ANN401 - the server checks it
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    except ValueError as error:
        raise CommandError(f"{file} is no JSON: {error}.", ExitCode.INPUT) from None

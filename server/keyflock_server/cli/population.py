"""``keyflock population``: groups of phones that share a model, from their creation to their deletion."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.options import LONGEST_PAGE, DataDir, Json, Reason, TokenFile, Url, connect
from keyflock_server.protocol.operator.populations import (
    ARCHIVE_POPULATION,
    CREATE_POPULATION,
    DELETE_POPULATION,
    POPULATIONS,
    PREVIEW_COHORT,
    RENAME_POPULATION,
    ROLL_BACK,
    UNARCHIVE_POPULATION,
)

COLUMNS: Final = (
    "name",
    "former_names",
    "model_version",
    "parameter_count",
    "vocabulary_size",
    "devices",
    "anchor_text",
)

app = typer.Typer(no_args_is_help=True, help="Phones of one app and language that share a model.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    checkpoint: Annotated[
        Path, typer.Argument(help="A safetensors checkpoint with its vocabulary: version 0.")
    ],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a population whose version 0 is CHECKPOINT."""
    try:
        body = checkpoint.read_bytes()
    except OSError as error:
        raise CommandError(f"{checkpoint} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    connection = connect(url, token_file, data_dir)
    answer = connection.call(CREATE_POPULATION, {"population": name}, body, {"reason": reason})
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("preview")
def preview(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    cohort: Annotated[
        str, typer.Option("--cohort", help='For example: tier >= 2 and not ("internal" in tags).')
    ],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count the devices that a task with this cohort expression would be for."""
    from keyflock_server.rounds.cohort import CohortSyntaxError, parse_cohort

    try:
        parse_cohort(cohort)
    except CohortSyntaxError as error:
        raise CommandError(f"--cohort: {error}", ExitCode.INPUT) from None
    body = json.dumps({"cohort": cohort}).encode()
    connection = connect(url, token_file, data_dir)
    answer = connection.call(PREVIEW_COHORT, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("rollback")
def roll_back(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    to: Annotated[int, typer.Option("--to", min=0, help="The version whose weights are to be served again.")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish an earlier version's weights as a new version; all versions between are withdrawn.

    Rounds of the population that have not published are discarded, and its tasks step on from fresh
    optimiser states.
    """
    body = json.dumps({"to": to, "reason": reason}).encode()
    connection = connect(url, token_file, data_dir)
    answer = connection.call(ROLL_BACK, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("rename")
def rename(
    name: Annotated[str, typer.Argument(help="A name that it has, or had.")],
    to: Annotated[str, typer.Option("--to", help="Its name from now on, for phones and operators.")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give a population another name.

    Phones that were shipped with a former name go on with it, and no other population can have it. Metrics
    and log lines keep the name that it was created with.
    """
    body = json.dumps({"to": to, "reason": reason}).encode()
    connection = connect(url, token_file, data_dir)
    answer = connection.call(RENAME_POPULATION, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("archive")
def archive(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take a population out of use: no new devices, no new tasks; its keyboards go on."""
    body = json.dumps({"reason": reason}).encode()
    answer = connect(url, token_file, data_dir).call(ARCHIVE_POPULATION, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("unarchive")
def unarchive(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put an archived population back into use."""
    body = json.dumps({"reason": reason}).encode()
    answer = connect(url, token_file, data_dir).call(UNARCHIVE_POPULATION, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    confirm: Annotated[str, typer.Option("--confirm", help="The name, typed again.")],
    reason: Reason,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a population for good, with its phones, personal models, tasks, rounds and model versions.

    Cancel its tasks first. Its phones are told that there is no such population; its names are free again.
    """
    body = json.dumps({"confirm": confirm, "reason": reason}).encode()
    connection = connect(url, token_file, data_dir)
    answer = connection.call(DELETE_POPULATION, {"population": name}, body)
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("list")
def show_all(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List the populations."""
    answer = connect(url, token_file, data_dir).call(POPULATIONS, query=LONGEST_PAGE)
    output.print_page(COLUMNS, answer, as_json=as_json)

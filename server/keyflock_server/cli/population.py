"""``keyflock population``: groups of phones that share a model, from their creation to their deletion."""

from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Archived, Limit, Reason
from keyflock_server.protocol.operator.personal_models import PERSONAL_MODELS
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


@operator_command(app, "create")
def create(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    checkpoint: Annotated[
        Path, typer.Argument(help="A safetensors checkpoint with its vocabulary: version 0.")
    ],
    reason: Reason,
) -> None:
    """Make a population whose version 0 is CHECKPOINT."""
    try:
        body = checkpoint.read_bytes()
    except OSError as error:
        raise CommandError(f"{checkpoint} cannot be read: {error.strerror}.", ExitCode.INPUT) from None
    answer = session.call(CREATE_POPULATION, {"population": name}, body=body, query={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "preview")
def preview(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    cohort: Annotated[
        str, typer.Option("--cohort", help='For example: tier >= 2 and not ("internal" in tags).')
    ],
) -> None:
    """Count the devices that a task with this cohort expression would be for."""
    from keyflock_server.rounds.cohort import CohortSyntaxError, parse_cohort

    try:
        parse_cohort(cohort)
    except CohortSyntaxError as error:
        raise CommandError(f"--cohort: {error}", ExitCode.INPUT) from None
    answer = session.call(PREVIEW_COHORT, {"population": name}, order={"cohort": cohort})
    session.print_fields(answer)


@operator_command(app, "rollback")
def roll_back(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    to: Annotated[int, typer.Option("--to", min=0, help="The version whose weights are to be served again.")],
    reason: Reason,
) -> None:
    """Publish an earlier version's weights as a new version; all versions between are withdrawn.

    Rounds of the population that have not published are discarded, and its tasks step on from fresh
    optimiser states.
    """
    answer = session.call(ROLL_BACK, {"population": name}, order={"to": to, "reason": reason})
    session.print_fields(answer)


@operator_command(app, "rename")
def rename(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="A name that it has, or had.")],
    to: Annotated[str, typer.Option("--to", help="Its name from now on, for phones and operators.")],
    reason: Reason,
) -> None:
    """Give a population another name.

    Phones that were shipped with a former name go on with it, and no other population can have it. Metrics
    and log lines keep the name that it was created with.
    """
    answer = session.call(RENAME_POPULATION, {"population": name}, order={"to": to, "reason": reason})
    session.print_fields(answer)


@operator_command(app, "archive")
def archive(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    reason: Reason,
) -> None:
    """Take a population out of use: no new devices, no new tasks; its keyboards go on."""
    answer = session.call(ARCHIVE_POPULATION, {"population": name}, order={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "unarchive")
def unarchive(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    reason: Reason,
) -> None:
    """Put an archived population back into use."""
    answer = session.call(UNARCHIVE_POPULATION, {"population": name}, order={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "delete")
def delete(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
    confirm: Annotated[str, typer.Option("--confirm", help="The name, typed again.")],
    reason: Reason,
) -> None:
    """Delete a population for good, with its phones, personal models, tasks, rounds and model versions.

    Cancel its tasks first. Its phones are told that there is no such population; its names are free again.
    """
    answer = session.call(
        DELETE_POPULATION, {"population": name}, order={"confirm": confirm, "reason": reason}
    )
    session.print_fields(answer)


@operator_command(app, "personal-models", is_watchable=True)
def show_personal_models(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(help="For example en-US.")],
) -> None:
    """Count the stored personal models, and show what personalising gains."""
    session.print_fields(session.call(PERSONAL_MODELS, {"population": name}))


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    archived: Archived = False,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List the populations."""
    query = {"archived": "true" if archived else None}
    session.print_list(COLUMNS, POPULATIONS, query=query, limit=limit)

"""``keyflock audit``: shows what operators changed, and verifies that nobody changed the log since."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.direct_storage import (
    Database,
    existing_url,
    open_existing,
    run_async,
    storage_failures,
)
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import DataDir, Json, Limit, TokenFile, Url, connect
from keyflock_server.protocol.operator.audit import AUDIT_ENTRY, AUDIT_LOG, AUDIT_VERIFICATION

if TYPE_CHECKING:
    from keyflock_server.storage.audit_verification import VerifiedPage

COLUMNS: Final = ("sequence", "at", "operator", "action", "subject_kind", "subject", "reason")
#: The name of these commands in PostgreSQL's list of connections; servers have another one.
_APPLICATION_NAME: Final = "keyflock audit"
_PAGE: Final = 1_000

app = typer.Typer(no_args_is_help=True, help="What operators changed, and why.")


@operator_command(app, "list", is_watchable=True)
def show_all(  # noqa: PLR0917 - each is an option
    session: OperatorSession,
    operator: Annotated[str | None, typer.Option("--operator", help="Only this operator's changes.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="For example task.pause.")] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="population, task, round, version, release, device or token."),
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="The id of what was changed.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="A device's id.")] = None,
    population: Annotated[str | None, typer.Option("--population", help="A population's name.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Changes of this instant (UTC) or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", help="Changes before this instant (UTC).")
    ] = None,
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option("--after", help="The next of the page before.")] = None,
) -> None:
    """List changes, newest first."""
    query = {
        "operator": operator,
        "action": action,
        "subject_kind": kind,
        "subject": subject,
        "device": device,
        "population": population,
        "since": None if since is None else since.replace(tzinfo=UTC).isoformat(),
        "until": None if until is None else until.replace(tzinfo=UTC).isoformat(),
        "after": after,
    }
    session.print_list(COLUMNS, AUDIT_LOG, query=query, limit=limit)


@operator_command(app, "show")
def show(
    session: OperatorSession,
    sequence: Annotated[int, typer.Argument(metavar="NUMBER", help="The entry's number.")],
) -> None:
    """Show one change: each field that it changed, before and after."""
    answer = session.call(AUDIT_ENTRY, {"sequence": str(sequence)})
    if session.as_json:
        session.print_fields(answer)
        return
    changes = answer.pop("changes")
    output.print_fields({name: value for name, value in answer.items() if name not in {"before", "after"}})
    output.print_table(("path", "before", "after"), changes)


@app.command("verify")
def verify(
    known: Annotated[
        str | None,
        typer.Option("--known", help="A head that an earlier run printed, and that you kept elsewhere."),
    ] = None,
    database: Database = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Verify that no entry was changed, removed or moved; print the head, to be kept elsewhere.

    Asks the server; with --database, or where no server runs over --data-dir, it reads the database itself.
    """
    is_direct = url is None and (database is not None or not _is_served(data_dir))
    found = _direct(known, database, data_dir) if is_direct else _asked(known, url, token_file, data_dir)
    if as_json:
        output.print_json(found)
    if (broken := found["broken"]) is not None:
        raise CommandError(
            f"The audit log is broken at entry {broken['sequence']}: {broken['kind']}. {broken['detail']} "
            f"The last good head is {found['head']}.",
            ExitCode.DAMAGED,
        )
    if not as_json:
        entries = str(found["head"]).partition(":")[0]
        typer.echo(f"{entries} entries, each continues the one before")
        typer.echo(f"keep this head where operators cannot write: {found['head']}")


def _is_served(data_dir: Path | None) -> bool:
    from keyflock_server.data_folder import ANNOUNCEMENT_FILE

    return data_dir is None or (data_dir.expanduser() / ANNOUNCEMENT_FILE).exists()


def _asked(
    known: str | None, url: str | None, token_file: Path | None, data_dir: Path | None
) -> dict[str, Any]:
    connection = connect(url, token_file, data_dir)
    query = {"limit": str(_PAGE)} | ({} if known is None else {"known": known})
    while True:
        answer: dict[str, Any] = connection.call(AUDIT_VERIFICATION, query=query)
        if answer["is_complete"]:
            return {name: answer[name] for name in ("head", "broken")}
        query["after"] = answer["head"]


def _direct(known: str | None, database: str | None, data_dir: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from keyflock_server.audit.entry import EMPTY, AuditHead
    from keyflock_server.storage.audit_verification import verify_page
    from keyflock_server.storage.sql.store import SqlStore

    try:
        kept_elsewhere = None if known is None else AuditHead.parse(known)
    except ValueError as error:
        raise CommandError(f"--known: {error}", ExitCode.USAGE) from None

    async def run(url: str) -> "VerifiedPage":
        store = SqlStore(url, _APPLICATION_NAME)
        try:
            await open_existing(store)
            page = await verify_page(store.audit, EMPTY, kept_elsewhere, _PAGE)
            while not page.is_last:
                page = await verify_page(store.audit, page.head, kept_elsewhere, _PAGE)
            return page
        finally:
            await store.close()

    with storage_failures():
        page = run_async(run(existing_url(database, data_dir)))
    return {"head": str(page.head), "broken": None if page.broken is None else asdict(page.broken)}

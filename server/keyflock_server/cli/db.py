"""``keyflock db``: the database beneath a server, for whoever keeps it. No server is asked."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode

app = typer.Typer(no_args_is_help=True, help="The database: its schema, and what it keeps.")

#: What these commands are called in PostgreSQL's list of connections; servers have another name there.
_APPLICATION_NAME: Final = "keyflock db"

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="KEYFLOCK_DATABASE",
        help="URL of the database, as for serve. It holds a password: rather set KEYFLOCK_DATABASE.",
        show_default=False,
        show_envvar=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="KEYFLOCK_DATA_DIR",
        help="The server's data folder, when the database is in it.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def db() -> None:
    """The database."""


@app.command("version")
def version(database: Database = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print the schema that the database has, and the one that this release works with."""
    from keyflock_server.storage.sql import schema
    from keyflock_server.storage.sql.engine import engine_for
    from keyflock_server.storage.tables import SCHEMA_REVISION

    async def ask(url: str) -> str | None:
        engine = engine_for(url, _APPLICATION_NAME)
        try:
            return await schema.revision(engine)
        finally:
            await engine.dispose()

    with _failures():
        found = asyncio.run(ask(_url(database, data_dir)))
    answer = {"database": found, "release": SCHEMA_REVISION}
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("upgrade")
def upgrade(database: Database = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Bring the database to this release's schema: all of it or, when it fails, nothing.

    Stop all servers and make a backup first: there is no way back to an older schema but the backup.
    """
    from keyflock_server.data_folder import DataFolder
    from keyflock_server.storage.sql import schema
    from keyflock_server.storage.sql.engine import engine_for

    async def run(url: str) -> schema.Upgraded:
        engine = engine_for(url, _APPLICATION_NAME)
        try:
            return await schema.upgrade(engine)
        finally:
            await engine.dispose()

    with _failures():
        url = _url(database, data_dir)
        folder = DataFolder.open(data_dir) if database is None and data_dir is not None else None
        try:
            done = asyncio.run(run(url))
        finally:
            if folder is not None:
                folder.release()
    if as_json:
        output.print_json(asdict(done))
    elif done.before == done.after:
        typer.echo(f"the database has schema {done.after} already")
    else:
        typer.echo(f"the database has schema {done.after} now; it was {done.before or 'empty'}")


@app.command("prune")
def prune(
    database: Database = None,
    data_dir: DataDir = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            "--blobs", envvar="KEYFLOCK_BLOBS", help="URL of the blobs, as for serve.", show_default=False
        ),
    ] = None,
    assignments_days: Annotated[
        int, typer.Option("--assignments-days", min=1, help="Who took part in a round, after its end.")
    ] = 30,
    versions: Annotated[
        int, typer.Option("--versions", min=2, help="Newest model versions of each population.")
    ] = 20,
    devices_days: Annotated[
        int,
        typer.Option("--devices-days", min=1, help="Devices not seen for so long, heads not written."),
    ] = 400,
    unproven_days: Annotated[
        int,
        typer.Option(
            "--unproven-days",
            min=1,
            help="Devices that never reported and stored no head, not seen for so long.",
        ),
    ] = 7,
    orphans_days: Annotated[
        int,
        typer.Option("--orphans-days", min=1, help="Blobs that no row points to, after they were written."),
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what has been kept for long enough. Servers may run meanwhile."""
    from keyflock_server.data_folder import BLOBS_FOLDER
    from keyflock_server.storage import pruning
    from keyflock_server.storage.blobs import LocalBlobs, blobs_at
    from keyflock_server.storage.retention import RetentionPolicy
    from keyflock_server.storage.sql.store import SqlStore

    if blobs is None and data_dir is None:
        raise CommandError("Where are the blobs? Give --blobs or --data-dir.", ExitCode.USAGE)
    policy = RetentionPolicy(
        assignments_kept=timedelta(days=assignments_days),
        versions_kept=versions,
        devices_kept=timedelta(days=devices_days),
        unproven_kept=timedelta(days=unproven_days),
        orphans_kept=timedelta(days=orphans_days),
    )

    async def run(url: str) -> pruning.PruneResult:
        place = LocalBlobs((data_dir or Path()) / BLOBS_FOLDER) if blobs is None else blobs_at(blobs)
        store = SqlStore(url, _APPLICATION_NAME)
        try:
            await store.open()
            return await pruning.prune(store, place, policy, datetime.now(UTC), is_dry_run=dry_run)
        finally:
            await store.close()

    with _failures():
        result = asyncio.run(run(_url(database, data_dir)))
    answer = {
        **asdict(result.rows),
        "blobs": result.blobs,
        "blob_bytes": result.blob_bytes,
        "is_dry_run": dry_run,
    }
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("forget-keys")
def forget_keys(database: Database = None, data_dir: DataDir = None) -> None:
    """Let the database take other secrets, because its own are lost for good.

    All phones must enrol anew, and stored heads are found by nobody any more.
    """
    from keyflock_server.identity.keys import OWNER_KEY_FILE, SIGNING_KEY_FILE
    from keyflock_server.storage.sql.store import SqlStore

    async def run(url: str) -> None:
        store = SqlStore(url, _APPLICATION_NAME)
        try:
            await store.open()
            await store.cluster.forget([SIGNING_KEY_FILE, OWNER_KEY_FILE])
        finally:
            await store.close()

    with _failures():
        asyncio.run(run(_url(database, data_dir)))
    typer.echo("the next server that starts sets the secrets")


def _url(database: str | None, data_dir: Path | None) -> str:
    if database is not None:
        return database
    if data_dir is None:
        raise CommandError(
            "Which database? Give --data-dir, or --database or better KEYFLOCK_DATABASE.", ExitCode.USAGE
        )
    from keyflock_server.data_folder import DATABASE_FILE

    file = data_dir.expanduser().absolute() / DATABASE_FILE
    if not file.is_file():
        raise CommandError(f"There is no database {file}.", ExitCode.INPUT)
    return f"sqlite+aiosqlite:///{file}"


@contextmanager
def _failures() -> Iterator[None]:
    from keyflock_server.data_folder import DataFolderError
    from keyflock_server.storage.door import StorageError

    try:
        yield
    except (DataFolderError, StorageError) as error:
        raise CommandError(str(error), ExitCode.FAILED) from None

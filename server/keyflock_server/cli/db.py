"""``keyflock db``: maintains a server's database directly, without asking a server."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.direct_storage import (
    BlobsUrl,
    Database,
    DataDir,
    Json,
    blob_store,
    existing_url,
    locked,
    open_existing,
    run_async,
    storage_failures,
)

if TYPE_CHECKING:
    from keyflock_server.storage.blob_identity import BlobCensus
    from keyflock_server.storage.records import StoredBlob

app = typer.Typer(no_args_is_help=True, help="The database: its schema, and what it keeps.")

#: The name of these commands in PostgreSQL's list of connections; servers have another one.
_APPLICATION_NAME: Final = "keyflock db"


@app.callback()
def db() -> None:
    """Manage the database."""


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

    with storage_failures():
        found = run_async(ask(existing_url(database, data_dir)))
    answer = {"database": found, "release": SCHEMA_REVISION}
    output.print_json(answer) if as_json else output.print_fields(answer)


@app.command("upgrade")
def upgrade(
    database: Database = None,
    data_dir: DataDir = None,
    online: Annotated[
        bool, typer.Option("--online", help="While servers run; refused where they must stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the database to this release's schema: all of it or, when it fails, nothing.

    Make a backup first: there is no way back to an older schema but the backup. Stop all servers, or give
    --online, which is refused where servers of the earlier release do not work with the new schema. A
    database that names users in plain text needs --data-dir beside --database, for its file owner_key.
    """
    from keyflock_server.identity.keys import read_owner_key
    from keyflock_server.storage.sql import schema
    from keyflock_server.storage.sql.engine import engine_for

    async def run(url: str) -> schema.Upgraded:
        owner_key = None if data_dir is None else read_owner_key(data_dir.expanduser())
        engine = engine_for(url, _APPLICATION_NAME)
        try:
            return await schema.upgrade(engine, owner_key, is_online=online)
        finally:
            await engine.dispose()

    with storage_failures():
        url = existing_url(database, data_dir)
        with locked(data_dir if database is None and not online else None):
            done = run_async(run(url))
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
    blobs: BlobsUrl = None,
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
    from keyflock_server.storage import pruning
    from keyflock_server.storage.retention import RetentionPolicy
    from keyflock_server.storage.sql.store import SqlStore

    policy = RetentionPolicy(
        assignments_retention=timedelta(days=assignments_days),
        versions_retained=versions,
        devices_retention=timedelta(days=devices_days),
        unproven_retention=timedelta(days=unproven_days),
        orphans_retention=timedelta(days=orphans_days),
    )

    async def run(url: str) -> pruning.PruneResult:
        place, store = blob_store(blobs, data_dir), SqlStore(url, _APPLICATION_NAME)
        try:
            await open_existing(store)
            return await pruning.prune(
                store, place, policy, datetime.now(UTC), is_dry_run=dry_run, on_deleted=_print_deleted
            )
        finally:
            await store.close()

    with storage_failures():
        result = run_async(run(existing_url(database, data_dir)))
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
            await open_existing(store)
            await store.cluster.forget([SIGNING_KEY_FILE, OWNER_KEY_FILE])
        finally:
            await store.close()

    with storage_failures():
        run_async(run(existing_url(database, data_dir)))
    typer.echo("the next server that starts sets the secrets")


@app.command("adopt-blobs")
def adopt_blobs(
    database: Database = None,
    data_dir: DataDir = None,
    blobs: BlobsUrl = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Also where blobs that the database points to are lost."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only say what it would mean.")] = False,
    as_json: Json = False,
) -> None:
    """Make the blob store the database's own, after one or both were restored from a backup.

    Stop all servers first. Blobs that the database does not point to are deleted an hour after a server has
    started: look at the figures, and restore database and blobs of one moment if they surprise you.
    """
    import uuid

    from keyflock_server.storage import blob_identity
    from keyflock_server.storage.sql.store import SqlStore

    async def run(url: str) -> tuple[blob_identity.BlobCensus, bool]:
        place, store = blob_store(blobs, data_dir), SqlStore(url, _APPLICATION_NAME)
        try:
            await open_existing(store)
            found = await blob_identity.census(store, place)
            refusal = _reason_not_to_adopt(found, allow_missing=allow_missing)
            if refusal:
                raise blob_identity.ForeignBlobs(refusal)
            if yes:
                await blob_identity.adopt(store, place, lambda: uuid.uuid4().hex)
            return found, yes
        finally:
            await store.close()

    with storage_failures():
        url = existing_url(database, data_dir)
        with locked(data_dir if database is None else None):
            found, is_adopted = run_async(run(url))
    answer = {**asdict(found), "unused": found.unused, "is_adopted": is_adopted}
    if as_json:
        output.print_json(answer)
        return
    output.print_fields(answer)
    if is_adopted:
        typer.echo("the blob store is this database's from now on")
    else:
        typer.echo("nothing was changed; run it again with --yes")


def _reason_not_to_adopt(found: "BlobCensus", *, allow_missing: bool) -> str:
    """Return why the blobs must not be adopted; empty when they may be."""
    if found.blobs and not found.in_use:
        return (
            f"The database points to no blob, and there are {found.blobs}: all would be deleted. Restore the "
            "database that they belong to, or give this one an empty place."
        )
    if found.missing and not allow_missing:
        return (
            f"Of {found.in_use} blobs that the database points to, {found.missing} are not there. Restore "
            "database and blobs of one moment; if they are lost for good: --allow-missing."
        )
    return ""


def _print_deleted(blob: "StoredBlob") -> None:
    written_at = f"{blob.modified_at:%Y-%m-%d %H:%M}"
    typer.echo(f"deleted blob {blob.key}, {blob.size_bytes} bytes, of {written_at}", err=True)

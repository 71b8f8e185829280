"""``keyflock backup`` and ``keyflock restore``: an installation in one folder, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from keyflock_server.cli import output
from keyflock_server.cli.direct_storage import (
    BlobsUrl,
    Database,
    DataDir,
    Json,
    blob_store,
    existing_url,
    locked,
    new_url,
    run_async,
    storage_failures,
)
from keyflock_server.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from keyflock_server.backups.folder import OnStep
    from keyflock_server.backups.manifest import Manifest
    from keyflock_server.backups.restoring import Restored

_CREATE: Final = "create"


class _CreateUnlessNamed(TyperGroup):
    """Takes ``keyflock backup DEST`` for ``keyflock backup create DEST``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - a private class of typer's
        if args and args[0] not in {*self.commands, "--help"}:
            args = [_CREATE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_CreateUnlessNamed,
    no_args_is_help=True,
    help="Back up database and blobs into a folder: keyflock backup DEST.",
)


@app.callback()
def backup() -> None:
    """Make and verify backups."""


@app.command(_CREATE)
def create(
    target: Annotated[Path, typer.Argument(metavar="DEST", help="The folder of the backup; a new one.")],
    database: Database = None,
    data_dir: DataDir = None,
    blobs: BlobsUrl = None,
    with_secrets: Annotated[
        bool,
        typer.Option(
            "--with-secrets",
            help="Also the files signing_key, owner_key and admin_token of the data folder.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Back up the rows of one moment and all blobs that they point to, while servers run.

    Without --with-secrets keep signing_key and owner_key of the data folder elsewhere: a restored database
    opens with no others, and all phones would have to enrol anew. With it whoever has the backup can act as
    any phone and operator. The file of the head keys is never in it.
    """
    import uuid
    from importlib.metadata import version

    from keyflock_server.backups.secret_files import read_secrets
    from keyflock_server.backups.taking import make_backup
    from keyflock_server.storage.sql.portable_copy import APPLICATION_NAME
    from keyflock_server.storage.sql.store import SqlStore

    if with_secrets and data_dir is None:
        raise CommandError("Whose secrets? Give --data-dir.", ExitCode.USAGE)

    async def run(url: str, on_step: "OnStep") -> "Manifest":
        secrets = read_secrets(data_dir.expanduser()) if with_secrets and data_dir is not None else {}
        store = SqlStore(url, APPLICATION_NAME)
        try:
            return await make_backup(
                url,
                store,
                blob_store(blobs, data_dir),
                target,
                secrets=secrets,
                program=version("keyflock"),
                new_id=lambda: uuid.uuid4().hex,
                clock=lambda: datetime.now(UTC),
                on_step=on_step,
            )
        finally:
            await store.close()

    with _backup_failures(), _progress() as on_step:
        manifest = run_async(run(existing_url(database, data_dir), on_step))
    if as_json:
        output.print_json(_answer(target, manifest))
        return
    output.print_fields(_answer(target, manifest))
    if not with_secrets:
        typer.echo("no secrets are in it: keep signing_key and owner_key of the data folder elsewhere")


@app.command("verify")
def verify(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder of the backup.")],
    as_json: Json = False,
) -> None:
    """Read every byte of a backup and compare it with the backup's manifest."""
    from keyflock_server.backups import folder

    with _backup_failures(), _progress() as on_step:
        manifest = folder.verify(source, on_step)
    if as_json:
        output.print_json(_answer(source, manifest))
        return
    output.print_fields(_answer(source, manifest))
    typer.echo("the backup is whole")


def restore(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder of the backup.")],
    database: Database = None,
    data_dir: DataDir = None,
    blobs: BlobsUrl = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty data folder, or an empty database and an empty place for blobs.

    Everything is verified before anything is written. Reports that were acknowledged after the backup are
    lost, and phones that enrolled after it enrol anew; who asked to be forgotten after it is there again.
    """
    import uuid

    from keyflock_server.backups.restoring import Place
    from keyflock_server.backups.restoring import restore as restore_backup
    from keyflock_server.data_folder import private_files

    async def run(url: str, on_step: "OnStep") -> "Restored":
        place = Place(
            url=url,
            blobs=blob_store(blobs, data_dir),
            data_dir=None if data_dir is None else data_dir.expanduser(),
        )
        return await restore_backup(source, place, lambda: uuid.uuid4().hex, on_step)

    with _backup_failures(), private_files(), locked(data_dir, is_new=True), _progress() as on_step:
        restored = run_async(run(new_url(database, data_dir), on_step))
    answer = _answer(source, restored.manifest) | {
        "store_id": restored.store_id,
        "secrets_state": restored.secrets,
        "needs_upgrade": restored.needs_upgrade,
    }
    if as_json:
        output.print_json(answer)
        return
    output.print_fields(answer)
    for line in _next_steps(restored):
        typer.echo(line)


def _next_steps(restored: "Restored") -> Iterator[str]:
    from keyflock_server.backups.secret_files import SecretsState

    yield f"restored as of {restored.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC: later reports are lost"
    if restored.needs_upgrade:
        yield f"the schema is {restored.manifest.schema}: run keyflock db upgrade before a server starts"
    if restored.secrets is not SecretsState.FIT:
        yield (
            "the data folder does not have this database's signing_key and owner_key: put them there before "
            "a server starts; if they are lost for good, keyflock db forget-keys"
        )


def _answer(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    return {
        "folder": str(folder),
        "created_at": f"{manifest.created_at:%Y-%m-%dT%H:%M:%S}Z",
        "schema": manifest.schema,
        "rows": sum(manifest.rows.values()),
        "devices": manifest.rows.get("devices", 0),
        "blobs": len(manifest.blobs),
        "size_bytes": manifest.size_bytes,
        "secrets": sorted(manifest.secrets),
    }


@contextmanager
def _progress() -> Iterator["OnStep"]:
    """Show how far it is on a terminal; say nothing into files and pipes."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console, what = output.progress_console(), TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        bars: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = bar.add_task(what)
            bar.update(bars[what], completed=done, total=total)

        yield show


@contextmanager
def _backup_failures() -> Iterator[None]:
    from keyflock_server.backups.folder import BackupDamaged, BackupMissing, PlaceTaken

    with storage_failures():
        try:
            yield
        except BackupDamaged as error:
            raise CommandError(str(error), ExitCode.DAMAGED, error.problems) from None
        except BackupMissing as error:
            raise CommandError(str(error), ExitCode.INPUT) from None
        except PlaceTaken as error:
            raise CommandError(str(error), ExitCode.REFUSED) from None

"""``keyflock serve``: runs a server until it is told to stop."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from keyflock_server.cli import output
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.telemetry.log_options import LogFormat, LogLevel

if TYPE_CHECKING:
    from keyflock_server.runtime.addresses import Addresses


def serve(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            help="Secrets, and the database and models too unless the next two options say otherwise; made "
            "when missing. Or KEYFLOCK_DATA_DIR.",
            show_default=False,
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="URL of a PostgreSQL database. It holds a password: rather set KEYFLOCK_DATABASE, which "
            "no list of processes shows.",
            show_default="SQLite in the data folder",
        ),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            "--blobs",
            help="s3://BUCKET/PREFIX?endpoint=URL or file:///PATH, or KEYFLOCK_BLOBS; credentials as AWS's "
            "own programs take them.",
            show_default="files in the data folder",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Where phones connect.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="0 lets the system choose.", show_default="8700")
    ] = None,
    admin_host: Annotated[
        str | None, typer.Option("--admin-host", help="Where operators connect.", show_default="127.0.0.1")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option("--admin-port", help="0 lets the system choose.", show_default="8701")
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            "--tls-certificate",
            help="PEM file with the certificate of the phones' port, those that lead to its authority behind "
            "it; exchanged while the server runs when the files change.",
            show_default="plain HTTP, for a proxy in front",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", help="PEM file with its key.", show_default=False),
    ] = None,
    admin_tls_certificate: Annotated[
        Path | None,
        typer.Option(
            "--admin-tls-certificate",
            help="The same for the operators' port; may be the same file.",
            show_default="plain HTTP",
        ),
    ] = None,
    admin_tls_key: Annotated[
        Path | None,
        typer.Option("--admin-tls-key", help="PEM file with its key.", show_default=False),
    ] = None,
    head_keys: Annotated[
        Path | None,
        typer.Option(
            "--head-keys",
            help="Keys of stored heads (keyflock heads add-key FILE); without them no head is stored.",
            show_default=False,
        ),
    ] = None,
    user_keys: Annotated[
        Path | None,
        typer.Option(
            "--user-keys",
            help="Public keys (PEM) of the app's backend: only a statement that one of them signed names a "
            "user then.",
            show_default="a user is a secret that the app holds",
        ),
    ] = None,
    suggestions: Annotated[
        bool | None,
        typer.Option("--suggestions", help="Answer POST /v1/suggestions.", show_default=False),
    ] = None,
    blocked_words: Annotated[
        Path | None,
        typer.Option(
            "--blocked-words",
            help="Further words that are never suggested, one a line.",
            show_default="the built-in list alone",
        ),
    ] = None,
    default_blocked_words: Annotated[
        bool | None,
        typer.Option(
            "--default-blocked-words/--no-default-blocked-words",
            help="Whether the slurs and coarse words of the built-in list are never suggested.",
            show_default="they are not",
        ),
    ] = None,
    announce: Annotated[
        Path | None,
        typer.Option(
            "--announce",
            help="Write {sdk_url, admin_url, pid} to this file once ready.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="|".join(get_args(LogFormat)),
            help="For machines or for people.",
            show_default="console",
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            metavar="|".join(get_args(LogLevel)),
            help="The least severe events that are logged.",
            show_default="INFO",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Announce readiness as one JSON line.")] = False,
) -> None:
    """Serve phones and operators until SIGTERM, SIGHUP or Ctrl-C.

    Every other setting is read from the environment: KEYFLOCK_ACK_WAIT_S, KEYFLOCK_BODY_TIMEOUT_S and so on
    (server/README.md lists them).
    """
    from keyflock_server.garbage_collection import lasting_objects

    with lasting_objects():
        from keyflock_server.bootstrap import build_server
        from keyflock_server.data_folder import DataFolderError, private_files
        from keyflock_server.descriptors import raise_descriptor_limit
        from keyflock_server.identity.keys import ADMIN_TOKEN_FILE, KeyFileError
        from keyflock_server.large_blocks import map_large_blocks
        from keyflock_server.runtime.certificates import CertificateError
        from keyflock_server.runtime.event_loop import run_in_bounded_time
        from keyflock_server.runtime.listeners import ListenError
        from keyflock_server.runtime.server import BackgroundLoopError
        from keyflock_server.settings import Settings, SettingsError, variables_without_effect
        from keyflock_server.storage.errors import StorageDamaged, StorageError
        from keyflock_server.telemetry.logs import configure_logs, logger
        from keyflock_server.telemetry.process_hooks import log_uncaught

    options = {
        "data_dir": data_dir,
        "database": database,
        "blobs": blobs,
        "host": host,
        "port": port,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "admin_tls_certificate": admin_tls_certificate,
        "admin_tls_key": admin_tls_key,
        "head_keys": head_keys,
        "user_keys": user_keys,
        "suggestions": suggestions,
        "blocked_words": blocked_words,
        "default_blocked_words": default_blocked_words,
        "log_format": log_format,
        "log_level": log_level,
    }
    if announce is not None and not announce.absolute().parent.is_dir():
        raise CommandError(f"--announce: there is no folder {announce.absolute().parent}.", ExitCode.USAGE)
    try:
        settings = Settings.read(options)
        configure_logs(settings.log_format, settings.log_level)
        log_uncaught()
        map_large_blocks()
        _log = logger("keyflock.server")
        for variable, nearest in variables_without_effect(os.environ).items():
            _log.warning("a variable of the environment has no effect", variable=variable, nearest=nearest)
        _log.info("open files", limit=raise_descriptor_limit())

        token_file = settings.data_dir / ADMIN_TOKEN_FILE
        is_first_start = not token_file.exists()

        def on_ready(addresses: "Addresses") -> None:
            if announce is not None:
                addresses.write(announce)
            _announce(addresses, token_file, as_json=as_json, is_new=is_first_start)

        with private_files():
            server = build_server(settings)
            run_in_bounded_time(server.run(on_ready), grace_s=settings.shutdown_grace_s)
    except StorageDamaged as error:
        raise CommandError(str(error), ExitCode.DAMAGED) from None
    except (
        SettingsError,
        DataFolderError,
        KeyFileError,
        CertificateError,
        ListenError,
        StorageError,
    ) as error:
        raise CommandError(str(error), ExitCode.CANNOT_START) from None
    except BackgroundLoopError as error:
        raise CommandError(str(error), ExitCode.FAILED) from None


def _announce(addresses: "Addresses", admin_token_file: Path, *, as_json: bool, is_new: bool) -> None:
    if as_json:
        output.print_json({**addresses.to_dict(), "admin_token_file": str(admin_token_file)})
    else:
        sys.stdout.write(
            f"phones connect to    {addresses.sdk_url}\n"
            f"operators connect to {addresses.admin_url}\n"
            f"admin token in       {admin_token_file}\n"
        )
        if is_new and sys.stdout.isatty():  # what goes into a file or a pipe may be kept as a log
            token = admin_token_file.read_text(encoding="ascii").strip()
            sys.stdout.write(f"admin token          {token} (shown this once)\n")
    sys.stdout.flush()

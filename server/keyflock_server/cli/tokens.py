"""``keyflock token``: creates, lists and revokes operators' tokens."""

import os
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.cli.operator_command import OperatorSession, operator_command
from keyflock_server.cli.options import MAX_LIMIT, Limit, Reason
from keyflock_server.protocol.operator.tokens import CREATE_TOKEN, REVOKE_TOKEN, TOKENS, WHO_AM_I
from keyflock_server.protocol.roles import Role

COLUMNS: Final = (
    "id",
    "name",
    "role",
    "state",
    "created_at",
    "created_by",
    "expires_at",
    "revoked_at",
)
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400}
_LIFETIME: Final = re.compile(r"(\d{1,6})([mhd])")

app = typer.Typer(no_args_is_help=True, help="Operators' tokens, each with a role.")


@operator_command(app, "create")
def create(
    session: OperatorSession,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bearer's name in the audit log.")],
    role: Annotated[Role, typer.Option("--role", help="What the token allows.")],
    reason: Reason,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="90d", help="Minutes, hours or days: 30m, 12h, 90d.", show_default="never"
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the token to a new file, for --token-file."),
    ] = None,
) -> None:
    """Create a token; its text is shown this once, or written to a file that only you can read."""
    order = {"name": name, "role": role, "lifetime_s": _lifetime_s(expires), "reason": reason}
    if save is None:
        answer = session.call(CREATE_TOKEN, order=order)
    else:
        file = _new_private_file(save)
        try:
            answer = session.call(CREATE_TOKEN, order=order)
            os.write(file, f"{answer.pop('text')}\n".encode())
        except BaseException:
            save.unlink()
            raise
        finally:
            os.close(file)
    session.print_fields(answer)


@operator_command(app, "list", is_watchable=True)
def show_all(
    session: OperatorSession,
    limit: Limit = MAX_LIMIT,
) -> None:
    """List the tokens, those that are void too."""
    session.print_list(COLUMNS, TOKENS, limit=limit)


@operator_command(app, "revoke")
def revoke(
    session: OperatorSession,
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id (keyflock token list).")],
    reason: Reason,
) -> None:
    """Make a token void for good, within two seconds in all servers."""
    if token.startswith("kf_"):
        raise CommandError(
            "Give the token's id alone, which stands between its underscores: other users of this machine "
            "can read what is in a command line.",
            ExitCode.USAGE,
        )
    answer = session.call(REVOKE_TOKEN, {"token_id": token}, order={"reason": reason})
    session.print_fields(answer)


@operator_command(app, "whoami")
def who_am_i(
    session: OperatorSession,
) -> None:
    """Say whose token the commands use, and which role it has."""
    answer = session.call(WHO_AM_I)
    session.print_fields(answer)


def _lifetime_s(text: str | None) -> int | None:
    if text is None:
        return None
    found = _LIFETIME.fullmatch(text.strip())
    if found is None:
        raise CommandError("--expires: give minutes, hours or days, as 30m, 12h or 90d.", ExitCode.USAGE)
    return int(found[1]) * _SECONDS[found[2]]


def _new_private_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"--save: {path}: {error.strerror}.", ExitCode.INPUT) from None

"""The operator's side of the admin port: where it is, the token it wants, and its answers."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.data_folder import ANNOUNCEMENT_FILE
from keyflock_server.http.operator_calls import OperatorCall
from keyflock_server.identity.keys import ADMIN_TOKEN_FILE

TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A server's admin port and the token that opens it."""

    url: str
    token: str = field(repr=False)

    @classmethod
    def find(
        cls, *, url: str | None, token: str | None, token_file: Path | None, data_dir: Path | None
    ) -> Self:
        """The server that the options name; what they leave out is read from its data folder.

        Raises:
            CommandError: nothing says where the server is, or a file that should say so cannot be read.
        """
        if url is None:
            url = _announced(data_dir)
        if token is None:
            if token_file is None and data_dir is not None:
                token_file = data_dir / ADMIN_TOKEN_FILE
            if token_file is None:
                raise CommandError(
                    "No admin token: give --token-file, KEYFLOCK_ADMIN_TOKEN or --data-dir.",
                    ExitCode.CREDENTIALS,
                )
            token = _read(token_file).strip()
        if not url.startswith(("http://", "https://")):
            raise CommandError(f"{url} is not an http:// or https:// address.", ExitCode.USAGE)
        if not token.isascii() or not token.isprintable() or not token:
            raise CommandError("The admin token is not one line of plain text.", ExitCode.CREDENTIALS)
        return cls(url.rstrip("/"), token)

    def call(
        self, call: OperatorCall, parts: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Any:  # noqa: ANN401 - JSON
        """The server's answer, as plain JSON values.

        Raises:
            CommandError: the server is not there, or said no.
        """
        path = call.path.format_map({name: quote(value, safe="") for name, value in (parts or {}).items()})
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = call.media_type
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url + path, data=body, headers=headers, method=call.method
        )
        # The admin port is on a private network: no proxy of the environment stands before it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(self.url, error.code, error.read()) from None
        except json.JSONDecodeError:
            raise CommandError(f"{self.url} is not a keyflock admin port.", ExitCode.UNREACHABLE) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise CommandError(
                f"No server answers at {self.url}: {getattr(reason, 'strerror', None) or reason}.",
                ExitCode.UNREACHABLE,
            ) from None


def _announced(data_dir: Path | None) -> str:
    if data_dir is None:
        raise CommandError("Which server? Give --url, KEYFLOCK_ADMIN_URL or --data-dir.", ExitCode.USAGE)
    path = data_dir / ANNOUNCEMENT_FILE
    if not path.exists():
        raise CommandError(f"No server runs on {data_dir}: there is no {path.name}.", ExitCode.UNREACHABLE)
    try:
        return str(json.loads(_read(path))["admin_url"])
    except (ValueError, KeyError, TypeError):
        raise CommandError(f"{path} does not say where the server is.", ExitCode.INPUT) from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CommandError(f"{path} cannot be read: {reason}.", ExitCode.INPUT) from None


def _refusal(url: str, status: int, body: bytes) -> CommandError:
    code = ExitCode.CREDENTIALS if status in (401, 403) else ExitCode.REFUSED
    try:
        problem = json.loads(body)
        return CommandError(f"{problem['title']} {problem['detail']} ({problem['code']})", code)
    except (ValueError, KeyError, TypeError):
        return CommandError(f"{url} answered {status}; it may not be a keyflock admin port.", code)

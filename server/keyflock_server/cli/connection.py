"""A client of the admin port: it finds the server and its token, and makes calls."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import Any, Final, Self

from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.data_folder import ANNOUNCEMENT_FILE
from keyflock_server.identity.keys import ADMIN_TOKEN_FILE
from keyflock_server.protocol.addresses import AddressError, server_address
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator_client import (
    NO_PROBLEM_DOCUMENT,
    OperatorError,
    operator_request,
    read_answer,
)

TIMEOUT_S: Final = 60.0
#: OpenSSL's codes for a certificate of another host or address.
_OTHER_NAME: Final = (62, 64)


@dataclass(frozen=True, slots=True)
class AdminConnection:
    """A server's admin port and its token.

    Args:
        url: The port's address.
        token: The bearer token.
        ca_file: PEM file with the authorities of the server's certificate; None: the system's.
    """

    url: str
    token: str = field(repr=False)
    ca_file: Path | None = None

    @classmethod
    def find(
        cls,
        *,
        url: str | None,
        token: str | None,
        token_file: Path | None,
        data_dir: Path | None,
        ca_file: Path | None = None,
    ) -> Self:
        """Find the server that the options name; what they leave out is read from its data folder.

        Raises:
            CommandError: the options do not say where the server is, or its files cannot be read.
        """
        if url is None:
            url = _announced(data_dir)
        if token is None:
            if token_file is None and data_dir is not None:
                token_file = data_dir / ADMIN_TOKEN_FILE
            if token_file is None:
                raise CommandError(
                    "No token: give --token-file, KEYFLOCK_ADMIN_TOKEN or --data-dir.",
                    ExitCode.CREDENTIALS,
                )
            token = _read(token_file).strip()
        try:
            url = server_address(url)
        except AddressError as error:
            raise CommandError(f"--url: {error}", ExitCode.USAGE) from None
        if not token.isascii() or not token.isprintable() or not token:
            raise CommandError("The token is not one line of plain text.", ExitCode.CREDENTIALS)
        return cls(url, token, ca_file)

    def call(
        self,
        call: AnyCall,
        path_params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return the server's answer, as plain JSON values; raises CommandError as ``read`` does."""
        answer = self.read(call, path_params, body, query, media_type)
        try:
            return json.loads(answer)
        except json.JSONDecodeError:
            raise CommandError(f"{self.url} is not a keyflock admin port.", ExitCode.UNREACHABLE) from None

    def read(
        self,
        call: AnyCall,
        path_params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> bytes:
        """Return the body of the server's answer.

        Raises:
            CommandError: a name is empty, the server cannot be reached, or has refused the call.
        """
        for kind, given in (path_params or {}).items():
            if not given.strip():  # a variable of a script that is not set
                raise CommandError(f"The name or id of the {kind} is empty.", ExitCode.USAGE)
        request = operator_request(self.token, call, path_params, body, query, media_type)
        try:
            return read_answer(self._send(request))
        except OperatorError as error:
            raise _command_error(self.url, error) from None

    def _send(self, request: Request) -> Response:
        with self._opened(request) as answer:
            return Response(answer.status or 0, {}, answer.read())

    def lines(self, request: Request) -> Iterator[bytes]:
        """Yield the lines of an answer that goes on; raises CommandError as ``call`` does."""
        with self._opened(request) as answer:
            if answer.status != HTTPStatus.OK:
                try:
                    read_answer(Response(answer.status or 0, {}, answer.read()))
                except OperatorError as error:
                    raise _command_error(self.url, error) from None
            yield from answer

    @contextmanager
    def _opened(self, request: Request) -> Iterator[HTTPResponse | urllib.error.HTTPError]:
        # The standard library alone: a command makes one call, starts at once, and ends at Ctrl-C.
        sent = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url + request.path,
            data=request.body if "content-type" in request.headers else None,
            headers=dict(request.headers),
            method=request.method,
        )
        # The admin port is on a private network, so proxies of the environment are ignored.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._trust())
        )
        try:
            with opener.open(sent, timeout=TIMEOUT_S) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                yield error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise CommandError(_unreachable(self.url, reason), ExitCode.UNREACHABLE) from None

    def _trust(self) -> ssl.SSLContext | None:
        if not self.url.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError:
            message = f"--ca-file: {self.ca_file} holds no certificates in PEM form."
        except OSError as error:
            message = f"--ca-file: {self.ca_file} cannot be read: {error.strerror}."
        raise CommandError(message, ExitCode.INPUT)


def _unreachable(url: str, reason: object) -> str:
    """Return why no answer came, and what to do."""
    match reason:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            hint = "give --url with one of its names"
            return f"The certificate that {url} shows is for another name: {hint}."
        case ssl.SSLCertVerificationError(verify_message=why):
            hint = "if its authority is your own, name the authority's file: keyflock --ca-file FILE ..."
            return f"The certificate that {url} shows is not trusted ({why}); {hint}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return f"{url} does not speak TLS: try http:// instead of https://."
        case RemoteDisconnected() | ConnectionResetError() if url.startswith("http:"):
            return f"{url} hung up without an answer; if it speaks TLS, give https:// instead of http://."
        case _:
            return f"No server answers at {url}: {getattr(reason, 'strerror', None) or reason}."


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
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CommandError(f"{path} cannot be read: {reason}.", ExitCode.INPUT) from None


def _command_error(url: str, error: OperatorError) -> CommandError:
    code = ExitCode.CREDENTIALS if error.status in (401, 403) else ExitCode.REFUSED
    is_temporary = error.status in (429, 502, 503, 504)
    if error.code == NO_PROBLEM_DOCUMENT:
        message = f"{url} answered {error.status}; it may not be a keyflock admin port."
        return CommandError(message, code, is_temporary=is_temporary)
    if len(error.problems) > 1:
        return CommandError(f"{error.title} ({error.code})", code, error.problems)
    if code is ExitCode.CREDENTIALS:  # the title tells phones what to do
        return CommandError(f"{error.detail} ({error.code})", code)
    message = f"{error.title} {error.detail} ({error.code})"
    return CommandError(message, code, is_temporary=is_temporary)

"""Commands over TLS: who is trusted, and what is said when somebody is not."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.services.certificates import Authority

from keyflock_server.cli.connection import AdminConnection
from keyflock_server.cli.errors import CommandError, ExitCode
from keyflock_server.protocol.operator.tasks import TASKS


class EmptyListHandler(BaseHTTPRequestHandler):
    """Answers everything with an empty list of tasks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b'{"tasks":[]}')

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the base class says
        """Stay quiet."""


@contextlib.contextmanager
def stand_in(context: ssl.SSLContext | None) -> Iterator[int]:
    """Serve on a port of loopback, with TLS if there is a context."""

    class QuietServer(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Stay quiet: clients hang up here."""

        def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class says
            if context is None:
                super().finish_request(request, client_address)
                return
            with context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    with QuietServer(("127.0.0.1", 0), EmptyListHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.in_folder(tmp_path)


@pytest.fixture
def tls_port(authority: Authority, tmp_path: Path) -> Iterator[int]:
    files = authority.issue(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with stand_in(context) as port:
        yield port


@pytest.fixture
def plain_port() -> Iterator[int]:
    with stand_in(None) as port:
        yield port


def refused(url: str, ca_file: Path | None = None) -> CommandError:
    with pytest.raises(CommandError) as failed:
        AdminConnection(url, "token", ca_file).call(TASKS)
    return failed.value


def test_an_authority_of_ones_own_is_named_by_its_file(authority: Authority, tls_port: int) -> None:
    connection = AdminConnection(f"https://127.0.0.1:{tls_port}", "token", authority.file)

    assert connection.call(TASKS) == {"tasks": []}


def test_a_certificate_of_an_unknown_authority_is_refused_with_what_to_do(tls_port: int) -> None:
    error = refused(f"https://127.0.0.1:{tls_port}")

    assert error.code is ExitCode.UNREACHABLE
    assert "is not trusted" in str(error)
    assert "--ca-file" in str(error)


def test_a_certificate_of_another_name_is_refused(authority: Authority, tls_port: int) -> None:
    assert "is for another name" in str(refused(f"https://localhost:{tls_port}", authority.file))


def test_a_port_without_tls_is_told(plain_port: int) -> None:
    assert "does not speak TLS: try http://" in str(refused(f"https://127.0.0.1:{plain_port}"))


def test_a_port_with_tls_that_is_asked_without_is_told(tls_port: int) -> None:
    assert "give https://" in str(refused(f"http://127.0.0.1:{tls_port}"))


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: No such file"), ("", "holds no certif")]
)
def test_a_file_of_authorities_that_cannot_be_used_is_named(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    error = refused("https://127.0.0.1:1", path)

    assert error.code is ExitCode.INPUT
    assert words in str(error)

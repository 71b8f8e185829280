"""A real server with TLS on both ports: its addresses, commands and metrics, and when it does not start."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.services.certificates import EXPIRES_AT, Authority

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.server_control.server_process import (
    ServerStartError,
    running_server,
)
from keyflock_server.protocol.calls import Request, Response


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``keyflock`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keyflock_server", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )


async def get(url: str, path: str, trust: ssl.SSLContext | None, host: str = "") -> Response:
    async with HttpExchange(url, trust=trust) as exchange:
        return await exchange.send(Request("GET", path, {"host": host} if host else {}, b""))


def test_phones_operators_and_commands_connect_by_https_alone(tmp_path: Path) -> None:
    authority = Authority.in_folder(tmp_path)
    files = authority.issue(tmp_path)
    trust = ssl.create_default_context(cafile=authority.file)
    pair = [str(files.certificate), "--tls-key", str(files.key), "--admin-tls-certificate"]
    options = ["--tls-certificate", *pair, str(files.certificate), "--admin-tls-key", str(files.key)]

    with running_server(tmp_path / "data", options=options) as server:
        ready = asyncio.run(get(server.sdk_url, "/readyz", trust))
        metrics = asyncio.run(get(server.admin_url, "/metrics", trust))
        foreign = asyncio.run(get(server.admin_url, "/metrics", trust, host="evil.example"))
        with pytest.raises(ConnectionError):
            asyncio.run(get(server.sdk_url, "/readyz", None))
        asked = ["task", "list", "--json", "--data-dir", str(server.data_dir)]
        listed = command("--ca-file", str(authority.file), *asked)
        by_variable = command(*asked, KEYFLOCK_CA_FILE=str(authority.file))
        untrusted = command(*asked)

    assert (server.sdk_url[:8], server.admin_url[:8]) == ("https://", "https://")
    assert (ready.status, metrics.status, foreign.status) == (200, 200, 400)
    expiries = {
        sample.labels["port"]: sample.value
        for family in text_string_to_metric_families(metrics.body.decode())
        for sample in family.samples
        if sample.name == "keyflock_tls_certificate_expiry_timestamp_seconds"
    }
    assert expiries == dict.fromkeys(("phones", "operators"), EXPIRES_AT.timestamp())
    assert (listed.returncode, by_variable.returncode) == (0, 0), listed.stderr
    assert json.loads(listed.stdout) == json.loads(by_variable.stdout)
    assert untrusted.returncode == 3
    assert "--ca-file" in untrusted.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-certificate", "{cert}"], "--tls-certificate is given without --tls-key"),
        (["--admin-tls-key", "{key}"], "--admin-tls-key is given without --admin-tls-certificate"),
        (["--tls-certificate", "{key}", "--tls-key", "{key}"], "holds no certificate in PEM form"),
    ],
)
def test_a_server_with_half_a_certificate_does_not_start(
    tmp_path: Path, options: list[str], words: str
) -> None:
    files = Authority.in_folder(tmp_path).issue(tmp_path)
    given = [one.format(cert=files.certificate, key=files.key) for one in options]

    with (
        pytest.raises(ServerStartError, match="code 6") as failed,
        running_server(tmp_path / "data", options=given),
    ):
        pass

    assert words in str(failed.value)

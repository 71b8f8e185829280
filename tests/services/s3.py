"""A real S3 server of one test process: moto's standalone server, as a child that dies with its parent."""

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from keyflock_client_sim.server_control import dies_with_parent

#: Values of the AWS variables; a test can search the program's output for the secret.
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "planted-access-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_REGION": "us-east-1",
}


class S3Server:
    """One server on a port of this machine; what it holds is gone when it stops.

    Args:
        log: File for its output.
    """

    def __init__(self, log: Path) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            pytest.skip("S3 comes with the packages moto and flask (extra dev), which are not installed")
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server, and return when it answers."""
        program = [sys.executable, dies_with_parent.__file__, str(os.getpid())]
        server = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*program, *server, "-p", str(self._port)], stdout=log, stderr=log
            )
        while True:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5.0):  # noqa: S310 - ours
                    return
            except OSError:
                if self._process.poll() is not None:
                    raise RuntimeError(f"The S3 server did not start:\n{self._log.read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60.0)
            self._process = None

    def new_bucket(self) -> str:
        """Create a bucket, and return its URL for ``--blobs``."""
        bucket = f"keyflock-{secrets.token_hex(4)}"
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT")  # noqa: S310 - ours
        request.add_header(
            "Authorization", "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"
        )
        with urllib.request.urlopen(request, timeout=10.0):  # noqa: S310 - ours
            pass
        return f"s3://{bucket}/fleet?endpoint={self.endpoint}"

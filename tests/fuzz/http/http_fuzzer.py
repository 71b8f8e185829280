"""A fuzzer for both ports: whatever is sent, nothing of it comes out again, and the server goes on.

    make fuzz-http N=200000

It starts ``keyflock serve`` as operators run it, at its most talkative level, and plants a secret in every
request (``hostile_requests.py``). Every answer is searched for secrets in every form that they may have
(``planted.py``); in the end the log, the figures and the data folder are, too. No answer may be a 5xx, the
server's memory must not grow, and it must be alive. The last line on stdout is one JSON object.

tests/http/test_http_fuzzer.py plants bugs that it must find.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import psutil
from tests.fuzz.http.hostile_requests import FuzzCredentials, HostileRequest, drawn
from tests.fuzz.http.planted import Planted

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary

SERVE: Final = (sys.executable, "-m", "keyflock_server")
#: Answers that take longer are not waited for: the server waits for the rest of what was sent.
PATIENCE_S: Final = 0.2
#: Requests over one connection, at most.
KEPT_FOR: Final = 20
CONNECTIONS: Final = 24
#: From so many requests on it is worth waiting until suggestions are answered.
LONG_RUN: Final = 10_000
#: What the server says by design: a report waits for others, the first release is being compiled.
BY_DESIGN: Final = (b"report_pending", b"The population's model is being made ready.")
#: Caches fill and the allocator settles; what comes on top is growth.
WARM_UP_RATIO: Final = 0.2
MAX_GROWTH_BYTES: Final = 64 * 2**20
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d\d\d) ")
TASK: Final = """
[task]
name = "next-word"
population = "en-US"

[round]
goal = 4
over_selection = 3.0
selection_s = 0.001
deadline_s = 86400.0

[pacing]
min_s = 0.1
max_s = 0.2
"""


@dataclass
class FuzzOutcome:
    """What a run has found."""

    requests: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    #: Each with where it was found.
    secrets: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    rss_growth_bytes: int = 0
    is_alive: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return (
            not self.secrets
            and not self.server_errors
            and self.is_alive
            and self.rss_growth_bytes < MAX_GROWTH_BYTES
        )

    def line(self) -> dict[str, object]:
        """The figures that a run ends with."""
        return {
            "requests": self.requests,
            "secrets_found": len(self.secrets),
            "server_errors": len(self.server_errors),
            "rss_growth_bytes": self.rss_growth_bytes,
            "is_alive": self.is_alive,
        }


@dataclass(frozen=True)
class FuzzedServer:
    """A running server."""

    folder: Path
    log: Path
    sdk: tuple[str, int]
    admin: tuple[str, int]
    process: subprocess.Popen[str]


def fuzz(
    requests: int,
    *,
    seed: int = 0,
    serve: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
    connections: int = CONNECTIONS,
) -> FuzzOutcome:
    """Send so many requests to a server of its own, and search everywhere.

    Args:
        requests: How many.
        seed: Another one, other requests.
        serve: The program that is tried.
        environment: On top of this process's.
        connections: At once.
    """
    outcome = FuzzOutcome()
    planted = Planted(random.Random(f"{seed}/{os.getpid()}/{time.time_ns()}"))
    with serving(serve, environment or {}) as server:
        asyncio.run(_run(server, requests, seed, planted, outcome, connections))
        outcome.is_alive = server.process.poll() is None
        if outcome.is_alive:
            server.process.terminate()
            server.process.wait(timeout=30)
        outcome.secrets += [f"log: {found}" for found in planted.found_in(server.log.read_bytes())]
        outcome.secrets += planted.found_under(server.folder)
    return outcome


@contextmanager
def serving(serve: Sequence[str], environment: Mapping[str, str]) -> Iterator[FuzzedServer]:
    """Run a server with a data folder and head keys of its own."""
    with tempfile.TemporaryDirectory(prefix="keyflock-fuzz-") as place:
        folder, log, keys = Path(place) / "data", Path(place) / "log", Path(place) / "head_keys"
        variables = {**os.environ, **environment}
        subprocess.run(
            [*SERVE, "heads", "add-key", str(keys)], check=True, capture_output=True, env=variables
        )
        command = [*serve, "serve", "--data-dir", str(folder), "--head-keys", str(keys), "--suggestions"]
        command += [
            "--port",
            "0",
            "--admin-port",
            "0",
            "--json",
            "--log-level",
            "DEBUG",
            "--log-format",
            "json",
        ]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
            )
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline() or "{}")
            if not ready:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
            yield FuzzedServer(folder, log, _address(ready["sdk_url"]), _address(ready["admin_url"]), process)
        finally:
            process.kill()
            process.communicate()


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


async def _run(
    server: FuzzedServer, requests: int, seed: int, planted: Planted, outcome: FuzzOutcome, connections: int
) -> None:
    site = await prepared(server, waits_for_suggestions=requests >= LONG_RUN)
    numbers = iter(range(requests))
    process = psutil.Process(server.process.pid)
    warm_at, warm_bytes = int(requests * WARM_UP_RATIO), 0

    async def work() -> None:
        nonlocal warm_bytes
        left: HostileRequest | None = None
        while server.process.poll() is None:
            batch: list[HostileRequest] = [] if left is None else [left]
            left = None
            for number in numbers:
                sent = drawn(site, planted.secret(number), random.Random(f"{seed}/{number}"))
                outcome.requests += 1
                outcome.kinds[sent.kind] += 1
                if outcome.requests == warm_at:
                    warm_bytes = process.memory_info().rss
                if batch and batch[0].is_for_operators != sent.is_for_operators:
                    left = sent  # it begins a connection to the other port
                    break
                batch.append(sent)
                if sent.is_last or sent.is_cut or len(batch) >= KEPT_FOR:
                    break
            if not batch:
                return
            await _connection(server, batch, planted, outcome)

    await asyncio.gather(*(work() for _ in range(connections)))
    if server.process.poll() is None:
        outcome.rss_growth_bytes = max(0, process.memory_info().rss - warm_bytes)
        figures = await _exchanged(server.admin, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        outcome.secrets += [f"/metrics: {found}" for found in planted.found_in(figures)]
        assert b"keyflock_malformed_requests_total" in figures


async def _connection(
    server: FuzzedServer, batch: list[HostileRequest], planted: Planted, outcome: FuzzOutcome
) -> None:
    """Send requests over one connection, one after the other; look at every answer."""
    try:
        reader, writer = await asyncio.open_connection(
            *(server.admin if batch[0].is_for_operators else server.sdk)
        )
    except OSError as error:
        outcome.server_errors.append(f"no connection: {type(error).__name__}")
        return
    try:
        for sent in batch:
            writer.write(sent.data)
            await writer.drain()
            if sent.is_cut:
                return
            answer = await (_rest(reader) if sent.is_last else _answer(reader))
            _judge(sent, answer, planted, outcome)
            if not answer or b"connection: close" in answer.lower():
                return
    except (ConnectionError, ValueError):
        pass  # the server has ended the connection, which it may
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await writer.wait_closed()


def _judge(sent: HostileRequest, answer: bytes, planted: Planted, outcome: FuzzOutcome) -> None:
    outcome.secrets += [f"answer to {sent.kind}: {found}" for found in planted.found_in(answer)]
    for found in _STATUS_LINE.finditer(answer):
        status = int(found[1])
        outcome.answers[status] += 1
        if status >= 500 and not any(words in answer for words in BY_DESIGN):
            outcome.server_errors.append(f"{sent.kind}: {status} to {sent.data!r}: {answer[-300:]!r}")
    if b"aiohttp" in answer or b"Python/" in answer:
        outcome.server_errors.append(f"{sent.kind}: the library's banner")


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """One answer, whole."""
    head = b""
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        has_body = length and head[9:12] != b"304"
        return head + (await reader.readexactly(int(length)) if has_body else b"")
    return head


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server ends the connection, or has nothing more to say."""
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while True:
            async with asyncio.timeout(PATIENCE_S):
                more = await reader.read(65_536)
            if not more:
                break
            received += more
    return received


async def _exchanged(address: tuple[str, int], data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address, limit=2**24)
    writer.write(data)
    answer = await _answer(reader)
    writer.close()
    return answer


async def prepared(server: FuzzedServer, *, waits_for_suggestions: bool) -> FuzzCredentials:
    """A population, a task, a phone and its assignment, so that requests come past the first gates."""
    admin_token = (server.folder / "admin_token").read_text().strip()
    as_admin = f"Authorization: Bearer {admin_token}\r\n"
    await _made(
        server.admin,
        "PUT /admin/v1/populations/en-US?reason=fuzzing",
        as_admin,
        "application/octet-stream",
        _model(),
    )
    await _made(
        server.admin, "POST /admin/v1/tasks?reason=fuzzing", as_admin, "application/toml", TASK.encode()
    )
    enrolment = {"protocol": 1, "population": "en-US", "app_build": 1, "locale": "en-US"}
    enrolled = await _asked(server.sdk, "POST /v1/devices", "", enrolment)
    as_phone = f"Authorization: Bearer {enrolled['token']}\r\n"
    check_in = {"protocol": 1, "app_build": 1, "locale": "en-US", "examples": 9}
    assigned: dict[str, Any] = {}
    for _ in range(200):
        assigned = await _asked(server.sdk, "POST /v1/check-ins", as_phone, check_in)
        if "token" in assigned:
            break
        await asyncio.sleep(0.2)  # it is answered from memory until its window comes
    else:
        raise RuntimeError(f"the phone got no assignment: {assigned}")
    # The first release is read, and its network compiled.
    for _ in range(3000 if waits_for_suggestions else 0):
        asked = msgpack.packb({"context": "how are"})
        head = f"POST /v1/suggestions HTTP/1.1\r\nHost: localhost\r\n{as_phone}"
        head += "Content-Type: application/msgpack\r\n"
        answer = await _exchanged(server.sdk, f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked)
        if answer.startswith(b"HTTP/1.1 200"):
            break
        await asyncio.sleep(0.1)
    return FuzzCredentials(enrolled["token"], assigned["id"], assigned["token"], admin_token)


async def _made(address: tuple[str, int], line: str, headers: str, media_type: str, body: bytes) -> bytes:
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: {media_type}\r\n"
    answer = await _exchanged(address, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    if not answer.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{line} was not done: {answer!r}")
    return answer.partition(b"\r\n\r\n")[2]


async def _asked(address: tuple[str, int], line: str, headers: str, message: object) -> dict[str, Any]:
    body = await _made(address, line, headers, "application/msgpack", msgpack.packb(message))
    answer: dict[str, Any] = msgpack.unpackb(body)
    return answer


def _model() -> bytes:
    """A tiny network's checkpoint."""
    config = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
    words = SPECIAL_TOKENS + tuple(f"word{i}" for i in range(config.vocabulary_size - len(SPECIAL_TOKENS)))
    frequencies = np.full(len(words), -2.5, np.float32)
    weights = np.linspace(-0.5, 0.5, ParamLayout.for_config(config).size, dtype=np.float32)
    return Checkpoint(config, Vocabulary(words, frequencies), weights).to_bytes()


def main() -> int:
    """Run, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python-parser", action="store_true", help="aiohttp without its C parser")
    wanted = parser.parse_args()
    began_s = time.monotonic()
    environment = {"AIOHTTP_NO_EXTENSIONS": "1"} if wanted.python_parser else {}
    outcome = fuzz(wanted.requests, seed=wanted.seed, environment=environment)
    for kind, count in outcome.kinds.most_common():
        print(f"{count:>10,} {kind}")
    print(f"answers by status: {dict(sorted(outcome.answers.items()))}")
    print(f"{outcome.requests:,} requests in {time.monotonic() - began_s:.0f} s, seed {wanted.seed}")
    for finding in outcome.server_errors[:25] + outcome.secrets[:25]:
        print(finding)
    print(json.dumps(outcome.line()))
    return 0 if outcome.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())

"""A whole server with a tiny model, called over its two real ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

from keyflock_compression import encode, parse_spec
from keyflock_compression.container import Container
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.bootstrap import build_server
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.keys import load_or_create_signing_keys
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Credential
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    CheckInAnswer,
    Enrolment,
    EnrolRequest,
    Refusal,
    Report,
)
from keyflock_server.protocol.problems import Problem
from keyflock_server.runtime.addresses import Addresses
from keyflock_server.settings import Settings

CONFIG = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
LAYOUT = ParamLayout.for_config(CONFIG)

TASK = """
[task]
name = "next-word"
population = "en-US"

[round]
goal = 4
minimum = 4
over_selection = 1.0
min_flush_clients = 2
unsafe_single_flush = true
deadline_s = 600.0
selection_s = 0.001

[pacing]
min_s = 1.0
max_s = 2.0

[codec]
codec = "float32"
entropy = "none"

[optimizer]
name = "fedavg"
"""


def checkpoint() -> bytes:
    words = SPECIAL_TOKENS + tuple(f"word{i}" for i in range(CONFIG.vocabulary_size - len(SPECIAL_TOKENS)))
    frequencies = np.full(len(words), -2.5, np.float32)
    weights = np.linspace(-0.5, 0.5, LAYOUT.size, dtype=np.float32)
    return Checkpoint(CONFIG, Vocabulary(words, frequencies), weights).to_bytes()


@dataclass
class CallAnswer:
    """A complete response."""

    status: int
    body: bytes

    def code(self) -> str:
        return wire.decode(self.body, Problem).code


@dataclass
class RoundPhone:
    """One enrolled phone that does what its test says."""

    server: RunningServer
    token: str

    async def try_check_in(self) -> CallAnswer:
        return await self.send(calls.CHECK_IN, CheckIn(protocol=1, app_build=1, locale="en-US", examples=9))

    async def check_in(self) -> Assignment | Refusal:
        answer = await self.try_check_in()
        assert answer.status == 200, answer.body
        return wire.decode(answer.body, CheckInAnswer)  # type: ignore[arg-type]  # a union of types

    async def assigned(self) -> Assignment:
        answer = await self.check_in()
        assert isinstance(answer, Assignment), answer
        return answer

    async def send(
        self,
        call: Call,
        message: Message | None = None,
        assignment: Assignment | None = None,
        **parts: object,
    ) -> CallAnswer:
        headers = {"Authorization": f"Bearer {self.token}"}
        if call.credential is Credential.ASSIGNMENT:
            assert assignment is not None
            headers["Keyflock-Assignment"] = assignment.token
            parts["assignment"] = assignment.id
        return await self.server.send(call, message, headers, **parts)

    async def report(self, assignment: Assignment, delta: bytes, examples: int = 5) -> CallAnswer:
        return await self.send(calls.REPORT, Report(delta=delta, examples=examples), assignment)


@dataclass
class RunningServer:
    """A running server and a client for both of its ports."""

    addresses: Addresses
    data_dir: Path
    session: aiohttp.ClientSession
    layout: ParamLayout = LAYOUT
    task: str = TASK

    async def enrol(self, population: str = "en-US", user: str | None = None) -> CallAnswer:
        request = EnrolRequest(protocol=1, population=population, app_build=1, locale="en-US", user=user)
        return await self.send(calls.ENROL, request, {})

    async def phone(self, user: str | None = None) -> RoundPhone:
        return RoundPhone(self, wire.decode((await self.enrol(user=user)).body, Enrolment).token)

    async def send(
        self, call: Call, message: Message | None, headers: dict[str, str], **parts: object
    ) -> CallAnswer:
        if message is not None:
            headers = {**headers, "Content-Type": "application/msgpack"}
        async with self.session.request(
            call.method,
            self.addresses.sdk_url + call.path.format_map(parts),
            data=None if message is None else wire.encode(message),
            headers=headers,
        ) as response:
            return CallAnswer(response.status, await response.read())

    async def operate(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:  # noqa: ANN401 - JSON
        """The status and the JSON of an operator's call; a body is JSON unless it is said to be else."""
        headers = {"Authorization": f"Bearer {(self.data_dir / 'admin_token').read_text().strip()}"}
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        url = f"{self.addresses.admin_url}/admin/v1/{path}"
        async with self.session.request(method, url, data=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def create_population(self, name: str = "en-US", body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
        return await self.operate(
            "PUT",
            f"populations/{name}?reason=a+test",
            checkpoint() if body is None else body,
            "application/octet-stream",
        )

    async def create_task(self, text: str = TASK) -> Any:  # noqa: ANN401 - JSON
        return await self.operate("POST", "tasks?reason=a+test", text.encode(), "application/toml")

    def delta(self, assignment: Assignment, value: float = 0.01) -> bytes:
        """A delta of one value throughout, encoded as the assignment wants it."""
        return TinyTask(b"").delta(assignment, value)

    def unchecked_delta(self, assignment: Assignment, value: float, layout: ParamLayout = LAYOUT) -> bytes:
        """A well-formed container around values that no encoder would write."""
        values = np.full(layout.size, 0.01, np.float32)
        values[3] = value
        return Container(assignment.codec, layout.digest, b"", (values.tobytes(),)).to_bytes()

    def forged(self, assignment: Assignment, round_id: str) -> Assignment:
        """The assignment with a token that says something else, signed with the server's own key."""
        tokens = AssignmentTokens(load_or_create_signing_keys(self.data_dir))
        claims = tokens.read(assignment.token, datetime.now(UTC))
        return msgspec.structs.replace(
            assignment, token=tokens.issue(replace(claims, round=RoundId(round_id)))
        )


@dataclass(frozen=True)
class TinyTask:
    """The checkpoint and the task that a server is set up with."""

    checkpoint: bytes
    task: str = TASK

    def delta(self, assignment: Assignment, value: float = 0.01) -> bytes:
        """A delta of one value throughout, encoded as the assignment wants it."""
        spec = parse_spec(assignment.codec)
        delta = np.full(LAYOUT.size, value, np.float32)
        # Two honest phones never send the same numbers, and what repeats another's makes no flush larger.
        delta[0] *= np.float32(1.0 - (assignment.seed % 4_096 + 1) * 2.0**-22)
        return encode(delta, LAYOUT, spec, seed=assignment.seed)


@pytest.fixture
def tiny_task() -> TinyTask:
    """A tiny model, and a task whose rounds want four phones."""
    return TinyTask(checkpoint())


@pytest.fixture
async def bare_server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server that knows no population yet."""
    settings = Settings.read(
        {"data_dir": tmp_path / "data", "port": 0, "admin_port": 0, "tick_s": 0.01, "ack_wait_s": 5.0}, {}
    )
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(build_server(settings).run(ready.set_result))
    either: set[asyncio.Future[Any]] = {running, ready}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running  # it says why it did not start
    async with aiohttp.ClientSession() as session:
        yield RunningServer(await ready, settings.data_dir, session)
    os.kill(os.getpid(), signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(120.0):
            await running


@pytest.fixture
async def server(bare_server: RunningServer) -> RunningServer:
    """A server with a population and a task whose rounds want four phones."""
    status, answer = await bare_server.create_population()
    assert status == 201, answer
    status, answer = await bare_server.create_task()
    assert status == 201, answer
    async with asyncio.timeout(120.0):
        while not (await bare_server.operate("GET", "rounds?task=next-word"))[1]["items"]:
            pass
    return bare_server

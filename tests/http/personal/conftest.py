"""A whole server without sockets, with heads and suggestions, that can be stopped and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from keyflock_compression import encode, encode_state, parse_spec
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.gate import Gate
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.serving import batched_trunk
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary
from keyflock_server.bootstrap import build_socketless_server
from keyflock_server.personal_models.key_ring import add_encryption_key
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Request, Response
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    Enrolment,
    EnrolRequest,
    Report,
    SuggestionRequest,
    Suggestions,
)
from keyflock_server.protocol.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from keyflock_server.runtime.socketless_server import SocketlessServer

WORDS = ["the", "to", "that", "tea", "team", "ten", "a", "zoo"]
TASK = """
[task]
name = "next-word"
population = "en-US"
[round]
goal = 4
selection_s = 0.001
max_rounds = 1
[optimizer]
name = "fedavg"
"""
CONFIG = ModelConfig(vocabulary_size=12, embedding_size=4, hidden_size=6)
#: 128 random bits, as a keyboard would name its user.
ANN = "vT0hJ3qkX2m9sY8bQw5Zrg"


def vocabulary() -> Vocabulary:
    shares = np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 40
    return build_vocabulary(WORDS, list(shares), oov=0.1, eos=0.1)


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, ParamLayout.for_config(CONFIG).size).astype(np.float32)


def personal(*messages: str, is_open: bool = True) -> PersonalModel:
    """The model of someone who typed this, over and over."""
    model = PersonalModel.new(vocabulary())
    for _ in range(20):
        for message in messages:
            model.learn(message, None)
    model.gate = Gate.opened() if is_open else Gate()
    return model


def head_bytes(*messages: str, is_open: bool = True) -> bytes:
    """The same as a phone puts it."""
    return encode_state(personal(*messages, is_open=is_open).to_state())


@pytest.fixture(scope="module", autouse=True)
def few_compiled_shapes() -> Iterator[None]:
    """Compile four shapes of the network instead of 21; the others would test nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched_trunk, "BATCH_SIZES", (1, 64))
        patch.setattr(batched_trunk, "CONTEXT_LENGTHS", (5, 20))
        yield


@dataclass
class PersonalPhone:
    harness: PersonalHarness
    token: str

    async def send(self, call: Call, body: bytes = b"", version: str = "", **headers: str) -> Response:
        sent = {"authorization": f"Bearer {self.token}"}
        if call.max_body_bytes:
            sent["content-type"] = call.media_type
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        path = call.path.format(population="en-US", version=version)
        return await self.harness.server.send(Request(call.method, path, sent, body))

    async def forget_user(self, user: str | None) -> Response:
        """Ask for all that is the user's to be forgotten, with what proves it."""
        headers = {"authorization": f"Bearer {self.token}"}
        if user is not None:
            headers[calls.USER_HEADER] = user
        return await self.harness.server.send(Request("DELETE", "/v1/devices/me?scope=user", headers, b""))

    async def refresh(self, user: str) -> None:
        """Enrol anew with the old token, naming a user."""
        request = EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US", user=user)
        headers = {"content-type": calls.MEDIA_TYPE, "authorization": f"Bearer {self.token}"}
        response = await self.harness.server.send(
            Request("POST", "/v1/devices", headers, wire.encode(request))
        )
        self.token = wire.decode(response.body, Enrolment).token

    async def suggest(self, context: str, **fields: Any) -> Suggestions:  # noqa: ANN401 - the message's fields
        request = SuggestionRequest(context=context, **fields)
        response = await self.send(calls.SUGGEST, wire.encode(request))
        assert response.status == 200, response.body
        return wire.decode(response.body, Suggestions)

    async def words(self, context: str, **fields: Any) -> list[str]:  # noqa: ANN401 - the message's fields
        return [one.word for one in (await self.suggest(context, **fields)).suggestions]


@dataclass
class PersonalHarness:
    folder: Path
    options: dict[str, Any]
    now: datetime = field(default_factory=lambda: datetime(2026, 3, 1, tzinfo=UTC))
    server: SocketlessServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = build_socketless_server(self.folder / "data", lambda: self.now, **self.options)

    async def restart(self, **options: Any) -> None:  # noqa: ANN401 - settings
        await self.server.close()
        self.options.update(options)
        self.server = build_socketless_server(self.folder / "data", lambda: self.now, **self.options)
        await self.server.tick()

    async def found(self) -> None:
        checkpoint = Checkpoint(CONFIG, vocabulary(), weights())
        headers = {
            "authorization": f"Bearer {self.server.admin_token}",
            "content-type": "application/octet-stream",
        }
        response = await self.server.send(
            Request("PUT", "/admin/v1/populations/en-US?reason=a+test", headers, checkpoint.to_bytes())
        )
        assert response.status == 201, response.body
        await self.pass_time()

    async def pass_time(self) -> None:
        self.now += timedelta(seconds=2)
        await self.server.tick()

    async def next_version(self) -> None:
        """A round of four phones makes one."""
        headers = {"authorization": f"Bearer {self.server.admin_token}", "content-type": "application/toml"}
        response = await self.server.send(
            Request("POST", "/admin/v1/tasks?reason=a+test", headers, TASK.encode())
        )
        assert response.status == 201, response.body
        await self.pass_time()
        reports = [await self._report(await self.phone(), number) for number in range(4)]
        for report in (*reports, *reports):  # the first ones wait for the last
            answer = await self.server.send(report)
        assert answer.status == 200, answer.body
        await self.pass_time()
        await self.pass_time()

    async def _report(self, phone: PersonalPhone, number: int) -> Request:
        check_in = CheckIn(protocol=1, app_build=1, locale="en-US", examples=10)
        answer = await phone.send(calls.CHECK_IN, wire.encode(check_in))
        assignment = wire.decode(answer.body, Assignment)
        layout = ParamLayout.for_config(CONFIG)
        delta = np.random.default_rng(number).normal(0, 0.2, layout.size).astype(np.float32)
        container = encode(delta, layout, parse_spec(assignment.codec), seed=assignment.seed)
        headers = {
            "authorization": f"Bearer {phone.token}",
            "content-type": calls.MEDIA_TYPE,
            calls.ASSIGNMENT_HEADER: assignment.token,
        }
        report = Report(delta=container, examples=10)
        return Request(
            "PUT", calls.REPORT.path.format(assignment=assignment.id), headers, wire.encode(report)
        )

    async def enrol(self, user: str | None = None) -> Response:
        request: Message = EnrolRequest(
            protocol=1, population="en-US", app_build=1, locale="en-US", user=user
        )
        headers = {"content-type": calls.MEDIA_TYPE}
        return await self.server.send(Request("POST", "/v1/devices", headers, wire.encode(request)))

    async def phone(self, user: str | None = None) -> PersonalPhone:
        return PersonalPhone(self, wire.decode((await self.enrol(user)).body, Enrolment).token)

    def everything_on_disk(self) -> bytes:
        files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        assert any(path.suffix == ".sqlite3" for path in files)
        return b"\n".join(path.read_bytes() for path in files)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PersonalHarness]:
    await asyncio.to_thread(add_encryption_key, tmp_path / "head_keys")
    harness = PersonalHarness(tmp_path, {"head_keys": tmp_path / "head_keys", "suggestions": True})
    await harness.found()
    yield harness
    await harness.server.close()


def code(response: Response) -> str:
    return wire.decode(response.body, Problem).code

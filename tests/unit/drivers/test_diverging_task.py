"""A learning rate that is absurd, with phones and the real server: no keyboard gets a worse model for it."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.embedded_server import embedded_server
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.training.train_job import local_training
from keyflock_compression import decode_weights, encode, parse_spec
from keyflock_models.arrays import F32, I32
from keyflock_models.network.anchor_loss import anchor_loss
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import BOS, EOS
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_models.training.local_training import local_train
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Enrolment, EnrolRequest, Release
from keyflock_server.simulation import SocketlessServer

pytestmark = pytest.mark.slow  # forty minutes of a fleet, five times

CONFIG = ModelConfig(vocabulary_size=120, embedding_size=12, hidden_size=16)
LAYOUT = ParamLayout.for_config(CONFIG)
VOCABULARY = build_vocabulary(
    [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)],
    [1 / CONFIG.vocabulary_size] * (CONFIG.vocabulary_size - 4),
    oov=0.01,
    eos=0.1,
)
POPULATION = PopulationName("en-US")
PHONES = {f"phone-{number}": number for number in range(12)}
TASK = """
[task]
name = "{name}"
population = "en-US"
[round]
goal = 6
max_rounds = {rounds}
[pacing]
min_s = 5.0
max_s = 60.0
[optimizer]
name = "fedadam"
learning_rate = {rate}
"""


def speech(rows: int, *, seed: int) -> I32:
    """What people say here: a word is mostly followed by the one after its double."""
    rng, words = np.random.default_rng(seed), CONFIG.vocabulary_size - 4
    document = np.full((rows, 11), EOS, np.int32)
    document[:, 0] = BOS
    word = rng.integers(0, words, rows)
    for place in range(1, 10):
        document[:, place] = word + 4
        word = np.where(rng.random(rows) < 0.9, (2 * word + 1) % words, rng.integers(0, words, rows))
    return document


ANCHOR = speech(40, seed=99)
HELD_OUT = speech(60, seed=98)


def loss(weights: F32) -> float:
    """Nats a word of what nobody trains on."""
    return anchor_loss(CONFIG, VOCABULARY, weights, HELD_OUT)


class Learner:
    """Phones that learn in this process; remembers every model that one of them was given."""

    def __init__(self) -> None:
        self.models: dict[bytes, F32] = {}

    def store(self, digest: bytes, body: bytes) -> None:
        self.models[digest] = decode_weights(body, LAYOUT)

    async def train(self, phone: str, work: Train) -> Trained:
        mine = speech(40, seed=PHONES[phone])
        plan = local_training(work.plan)
        result = local_train(CONFIG, self.models[work.model_digest], mine, plan, seed=work.seed)
        container = encode(result.delta, LAYOUT, parse_spec(work.codec), seed=work.seed)
        return Trained(delta=container, examples=result.examples)


class Keyboard:
    """A phone that only types: it takes whatever is released."""

    def __init__(self, server: SocketlessServer) -> None:
        self._server = server
        self._token = ""
        #: Versions in the order in which it got them, and what they are worth.
        self.served: dict[int, float] = {}

    async def update(self) -> None:
        if not self._token:
            message = EnrolRequest(protocol=1, population=POPULATION, app_build=1, locale="en-US")
            answer = await self._send(calls.ENROL.method, calls.ENROL.path, wire.encode(message))
            self._token = wire.decode(answer.body, Enrolment).token
        path = calls.RELEASE.path.format(population=POPULATION)
        release = wire.decode((await self._send("GET", path)).body, Release)
        if release.model_version not in self.served:
            path = calls.RELEASED_MODEL.path.format(version=release.model_version)
            body = (await self._send("GET", path)).body
            self.served[release.model_version] = loss(decode_weights(body, LAYOUT))

    async def _send(self, method: str, path: str, body: bytes = b"") -> Response:
        headers = {"accept": calls.MEDIA_TYPE}
        if body:
            headers["content-type"] = calls.MEDIA_TYPE
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        answer = await self._server.send(Request(method, path, headers, body))
        assert answer.status == 200, answer.body
        return answer


class Site:
    """The server, its phones, a keyboard and an operator."""

    def __init__(self, server: SocketlessServer, clock: VirtualClock) -> None:
        self._server = server
        self.learner = Learner()
        self.keyboard = Keyboard(server)
        phones = make_fleet(PHONES, population=POPULATION, profile=PROFILES["ideal"], seed=1)
        self._fleet = VirtualTimeFleet(phones, server, self.learner, clock)

    async def live_until(self, task: str, field: str, value: object) -> dict[str, Any]:
        """The task, once it is so; the keyboard looks for a model in every minute of the fleet's life."""
        for _ in range(200):
            await self._fleet.run(limit_s=60.0)
            await self.keyboard.update()
            view = await self.operate("GET", f"tasks/{task}")
            if view[field] == value:
                return view
        raise AssertionError(f"{field} never became {value}: {view}")

    async def operate(
        self, method: str, path: str, document: object = None, *, toml: str = ""
    ) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._server.admin_token}"}
        body = b""
        if toml:
            headers["content-type"], body = "application/toml", toml.encode()
        elif document is not None:
            headers["content-type"], body = "application/json", json.dumps(document).encode()
        answer = await self._server.send(Request(method, f"/admin/v1/{path}", headers, body))
        assert answer.status < 300, answer.body
        view: dict[str, Any] = json.loads(answer.body)
        return view

    async def new_task(self, name: str, rate: float, rounds: int) -> None:
        await self.operate(
            "POST", "tasks?reason=a+test", toml=TASK.format(name=name, rate=rate, rounds=rounds)
        )


@asynccontextmanager
async def site(folder: Path, rate: float, *, has_anchor: bool) -> AsyncIterator[Site]:
    """A site whose first task has this learning rate."""
    params = init_params(CONFIG, jax.random.key(0), VOCABULARY.log_frequencies)
    start = Checkpoint(CONFIG, VOCABULARY, LAYOUT.flatten(params), anchor=ANCHOR if has_anchor else None)
    clock = VirtualClock()
    task = TASK.format(name="wild", rate=rate, rounds=2)
    async with embedded_server(
        folder, clock, population=POPULATION, checkpoint=start.to_bytes(), task=task
    ) as server:
        one = Site(server, clock)
        await one.keyboard.update()
        yield one


@pytest.mark.fault("D8")
@pytest.mark.parametrize("has_anchor", [True, False], ids=["anchor text", "no anchor text"])
@pytest.mark.parametrize("rate", [1.0, 100.0])
async def test_no_phone_gets_a_model_of_an_absurd_rate_and_the_operator_is_told_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rate: float, *, has_anchor: bool
) -> None:
    caplog.set_level(logging.WARNING, logger="keyflock.rounds")
    async with site(tmp_path / "server", rate, has_anchor=has_anchor) as one:
        held = await one.live_until("wild", "held_round", "wild-1")
        told = await one.operate("GET", "rounds/wild-1")
        await one.operate("POST", "rounds/wild-1/discard", {"reason": "a slip of the pen"})
        await one.operate("POST", "tasks/wild/cancel", {"reason": "a test"})
        await one.new_task("sane", 0.03, rounds=4)
        await one.live_until("sane", "state", "finished")

        began = one.keyboard.served[0]
        assert ("no anchor text" in held["anchor_text"]) is not has_anchor
        assert told["phase"] == "held"
        assert "more than" in told["detail"]
        assert told["figures"]["step_norm"] > 30 * told["figures"]["mean_delta_norm"]
        (warning,) = [record for record in caplog.records if record.getMessage() == "round held"]
        assert warning.levelno == logging.WARNING
        assert max(one.keyboard.served.values()) <= began
        assert max(loss(weights) for weights in one.learner.models.values()) <= began + 0.01
        assert min(one.keyboard.served.values()) < began - 0.02


@pytest.mark.fault("D9")
async def test_what_was_accepted_by_mistake_is_rolled_back_and_learning_goes_on(tmp_path: Path) -> None:
    async with site(tmp_path / "server", 100.0, has_anchor=True) as one:
        await one.live_until("wild", "held_round", "wild-1")
        await one.operate("POST", "rounds/wild-1/accept", {"reason": "let us see"})
        await one.live_until("wild", "rounds_committed", 1)
        worse = one.keyboard.served[1]

        view = await one.operate(
            "POST", f"populations/{POPULATION}/rollback", {"to": 0, "reason": "it was a mistake"}
        )
        await one.operate("POST", "tasks/wild/cancel", {"reason": "a test"})
        await one.keyboard.update()
        await one.new_task("sane", 0.03, rounds=4)
        await one.live_until("sane", "state", "finished")

        served = one.keyboard.served
        newest = max(served)
        assert worse > served[0] + 1.0
        assert view["model_version"] == 2
        assert served[2] == served[0]
        assert newest == 6
        assert served[newest] < served[0] - 0.02

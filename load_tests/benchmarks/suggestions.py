"""What a suggestion costs: blended against global-only, in the engine and over HTTP, with 10,000 heads.

    make bench-suggestions                 (about ten minutes; ARGS="--heads 1000" for a quicker look)

Users are roles of the default corpus: their personal models are learned from their own lines, each with a
head and an open gate, so that every blended answer pays for everything. The engine runs on one thread. The
server is a real process pinned to one core; the keyboards are on the other.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import aiohttp
import numpy as np
import psutil

from benchmarks.page import Section, table, write
from benchmarks.reference_deltas import full_size_start
from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.server_control.server_process import running_server
from keyflock_compression import decode_weights, encode_state, encode_weights
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import HEAD
from keyflock_models.personal.gate import Gate
from keyflock_models.personal.head import PersonalHead, feature_space
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.serving.batched_trunk import BatchedTrunk
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.suggesting import SuggestionQuery, suggest_batch
from keyflock_models.serving.trunk_predictions import BATCH_SIZES
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_server.personal_models.key_ring import add_encryption_key
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import Blend, Enrolment, EnrolRequest, SuggestionRequest

#: Number of distinct personal models; further users get copies of them.
MODELS: Final = 250
REPEATS: Final = 41
CONNECTIONS: Final = 64
#: Duration of each stretch over HTTP.
STRETCH_S: Final = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class TypingUsers:
    """The users' personal models, and what they type."""

    checkpoint: Checkpoint
    models: list[PersonalModel]
    contexts: list[str]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", type=int, default=10_000)
    heads: int = parser.parse_args().heads
    users = load_users()
    engine = engine_rows(users, heads)
    served = asyncio.run(over_http(users, heads))
    header = ("batch", "global ms", "blended ms", "blended with heads ms", "ratio", "ratio with heads")
    body = f"""{table(header, engine)}

In one pass of the engine on one thread: {len(users.models)} distinct models as {heads:,} profiles in memory,
full-size network, contexts of up to twelve words. *With heads*: every user's adapter and biases speak in
every row.

{table(("over HTTP, one core", "peak, answers/s", "p50 ms at half of it", "p99 ms"), served.rows)}

A server process on one core with {heads:,} stored heads, all of them in memory after their first question;
{CONNECTIONS} connections for the peak, open-loop Poisson arrivals at half of it, latency from the instant at
which a question was due. Blended costs {served.ratio:.2f} times global-only at the peak (median of paired
stretches). Storing a head took {served.put_ms:.1f} ms, a user's first question {served.first_ms:.1f} ms.
"""
    write(Section("suggestions", "What a suggestion costs", "make bench-suggestions", body))
    print(body)


def load_users() -> TypingUsers:
    """Return version 0 of the full size, and users of the default corpus."""
    checkpoint, _ = asyncio.run(full_size_start())
    layout = ParamLayout.for_config(checkpoint.config)
    space = feature_space(decode_weights(encode_weights(checkpoint.weights, layout), layout))
    users = sorted(read_corpus("shakespeare").users, key=lambda user: -sum(map(len, user.messages)))
    rng = np.random.default_rng(0)
    models, contexts = [], []
    for user in users[:MODELS]:
        model = PersonalModel.new(checkpoint.vocabulary)
        for message in user.messages[:150]:
            model.learn(message, None)
        model.gate = Gate.opened()
        width = checkpoint.config.embedding_size
        model.head = PersonalHead(
            space,
            rng.normal(0, 0.05, (width, 8)).astype(np.float32),
            rng.normal(0, 0.05, (8, width)).astype(np.float32),
            np.sort(rng.choice(np.arange(4, 10_000), 256, replace=False)).astype(np.int32),
            rng.normal(0, 0.3, 256).astype(np.float32),
        )
        models.append(model)
        for message in user.messages[:20]:
            words = message.split()
            contexts.append(" ".join(words[: min(len(words) // 2, 12)]))
    return TypingUsers(checkpoint, models, contexts)


def engine_rows(users: TypingUsers, heads: int) -> list[tuple[str, ...]]:
    """Return the time of one pass at each batch size, three ways that take turns."""
    layout = ParamLayout.for_config(users.checkpoint.config)
    index = VocabularyIndex.from_vocabulary(users.checkpoint.vocabulary)
    weights = decode_weights(encode_weights(users.checkpoint.weights, layout), layout)
    trunk = BatchedTrunk(users.checkpoint.config, weights, index.is_shown)
    trunk.compile()
    plain = profiles(users.models, index, heads)
    for model in users.models:
        model.weights.responsibilities[:, HEAD] = 500.0
    with_heads = profiles(users.models, index, len(users.models))
    rng = np.random.default_rng(1)
    rows = []
    for batch in BATCH_SIZES:
        times: dict[str, list[float]] = {"global": [], "blended": [], "heads": []}
        for _ in range(REPEATS):
            typed = [users.contexts[at] for at in rng.integers(0, len(users.contexts), batch)]
            first_users, others = rng.integers(0, heads, batch), rng.integers(0, len(with_heads), batch)
            for name, chosen in (
                ("global", [None] * batch),
                ("blended", [plain[at] for at in first_users]),
                ("heads", [with_heads[at] for at in others]),
            ):
                questions = [
                    SuggestionQuery(text, profile=profile)
                    for text, profile in zip(typed, chosen, strict=True)
                ]
                times[name].append(timed(lambda asked=questions: suggest_batch(asked, trunk, index)))  # type: ignore[misc]
        medians = {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
        ratios = [
            statistics.median(a / b for a, b in zip(times[name], times["global"], strict=True))
            for name in ("blended", "heads")
        ]
        rows.append(
            (
                str(batch),
                *(f"{medians[name]:.2f}" for name in ("global", "blended", "heads")),
                *(f"{ratio:.2f}" for ratio in ratios),
            )
        )
    return rows


def profiles(models: Sequence[PersonalModel], index: VocabularyIndex, count: int) -> list[ServingProfile]:
    """Return ``count`` profiles, none of which shares its memory with another."""
    return [ServingProfile.from_model(models[number % len(models)], index) for number in range(count)]


def timed(work: Callable[[], object]) -> float:
    """Return the time of a call in seconds."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


@dataclass(frozen=True, slots=True)
class HttpFigures:
    """The figures over HTTP."""

    rows: list[tuple[str, ...]]
    ratio: float
    put_ms: float
    first_ms: float


async def over_http(users: TypingUsers, heads: int) -> HttpFigures:
    """Fill a real server with heads, and ask it for suggestions."""
    with tempfile.TemporaryDirectory(prefix="keyflock-suggestions-") as name:
        folder = Path(name)
        add_encryption_key(folder / "head_keys")
        options = ("--suggestions", "--head-keys", str(folder / "head_keys"))
        with running_server(folder / "server", options=options) as server:
            psutil.Process().cpu_affinity([0])
            for thread in psutil.Process(server.pid).threads():
                os.sched_setaffinity(thread.id, {(os.cpu_count() or 1) - 1})
            connector = aiohttp.TCPConnector(limit=CONNECTIONS)
            async with aiohttp.ClientSession(server.sdk_url, connector=connector) as session:
                await create_population(session, server.admin_url, server.admin_token(), users.checkpoint)
                keyboards = Keyboards(session, users)
                put_ms, first_ms = await keyboards.enrol(heads)
                peaks: dict[Blend, list[float]] = {Blend.GLOBAL: [], Blend.BLENDED: []}
                for _ in range(5):
                    for blend, found in peaks.items():
                        found.append(await keyboards.closed_loop(blend, STRETCH_S / 2))
                rows: list[tuple[str, ...]] = []
                for blend, found in peaks.items():
                    peak = statistics.median(found)
                    taken = await keyboards.open_loop(blend, peak / 2, STRETCH_S * 2)
                    p50, p99 = np.percentile(1e3 * np.array(taken), [50, 99])
                    rows.append((blend.value, f"{peak:.0f}", f"{p50:.1f}", f"{p99:.1f}"))
    pairs = zip(peaks[Blend.GLOBAL], peaks[Blend.BLENDED], strict=True)
    return HttpFigures(rows, statistics.median(one / other for one, other in pairs), put_ms, first_ms)


async def create_population(
    session: aiohttp.ClientSession, admin_url: str, token: str, checkpoint: Checkpoint
) -> None:
    """Create the population, and wait until it answers."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    url = f"{admin_url}/admin/v1/populations/en?reason=A+benchmark"
    async with session.put(url, data=checkpoint.to_bytes(), headers=headers) as answer:
        answer.raise_for_status()
    probe = Keyboards(session, TypingUsers(checkpoint, [], ["the"]))
    await probe.enrol(1)
    while (await probe.ask(0, Blend.GLOBAL)) != 200:  # noqa: ASYNC110 - another process is waited for
        await asyncio.sleep(0.5)


class Keyboards:
    """Simulated keyboards that only ask for suggestions."""

    def __init__(self, session: aiohttp.ClientSession, users: TypingUsers) -> None:
        self._session = session
        self._users = users
        self._tokens: list[str] = []
        self._rng = np.random.default_rng(2)
        self._bodies = [
            {
                blend: wire.encode(SuggestionRequest(context=context, blend=blend))
                for blend in (Blend.GLOBAL, Blend.BLENDED)
            }
            for context in users.contexts
        ]

    async def enrol(self, count: int) -> tuple[float, float]:
        """Enrol phones, store their heads and ask once each; return the medians of the latter two in ms."""
        heads = [encode_state(model.to_state()) for model in self._users.models]
        put, first = [], []
        for number in range(count):
            request = wire.encode(EnrolRequest(protocol=1, population="en", app_build=1, locale="en"))
            headers = {"Content-Type": calls.MEDIA_TYPE}
            async with self._session.post("/v1/devices", data=request, headers=headers) as answer:
                token = wire.decode(await answer.read(), Enrolment).token
            self._tokens.append(token)
            if heads:
                began_s = time.perf_counter()
                headers = {"Content-Type": calls.HEAD_MEDIA_TYPE, "Authorization": f"Bearer {token}"}
                data = heads[number % len(heads)]
                async with self._session.put("/v1/heads/en", data=data, headers=headers) as answer:
                    answer.raise_for_status()
                put.append(time.perf_counter() - began_s)
                began_s = time.perf_counter()
                assert await self.ask(number, Blend.BLENDED) == 200
                first.append(time.perf_counter() - began_s)
        return (1e3 * statistics.median(put), 1e3 * statistics.median(first)) if put else (0.0, 0.0)

    async def ask(self, number: int, blend: Blend) -> int:
        """Ask one question, and return the HTTP status."""
        body = self._bodies[int(self._rng.integers(len(self._bodies)))][blend]
        headers = {"Content-Type": calls.MEDIA_TYPE, "Authorization": f"Bearer {self._tokens[number]}"}
        async with self._session.post("/v1/suggestions", data=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def closed_loop(self, blend: Blend, seconds: float) -> float:
        """Return the answers a second when every connection asks again as soon as it is answered."""
        began_s = time.perf_counter()
        answered = 0

        async def keep_asking() -> None:
            nonlocal answered
            while time.perf_counter() - began_s < seconds:
                assert await self.ask(int(self._rng.integers(len(self._tokens))), blend) == 200
                answered += 1

        await asyncio.gather(*(keep_asking() for _ in range(CONNECTIONS)))
        return answered / (time.perf_counter() - began_s)

    async def open_loop(self, blend: Blend, rate: float, seconds: float) -> list[float]:
        """Return the latencies in seconds, from when each question was due."""
        due = np.cumsum(self._rng.exponential(1 / rate, int(rate * seconds)))
        # A second to make all the tasks in, which is the generator's business.
        began_s = time.perf_counter() + 1.0

        async def ask_at(at_s: float) -> float:
            await asyncio.sleep(began_s + at_s - time.perf_counter())
            assert await self.ask(int(self._rng.integers(len(self._tokens))), blend) == 200
            return time.perf_counter() - began_s - at_s

        return await asyncio.gather(*(ask_at(float(at_s)) for at_s in due))


if __name__ == "__main__":
    main()

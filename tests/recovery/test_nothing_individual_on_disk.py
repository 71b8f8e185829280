"""No phone's update is on a disk by itself: not its bytes, not its numbers, in no encoding of ours."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tests.services.postgres import PostgresServer
from tests.unit.coordinator import evaluate_task
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness
from tests.unit.coordinator.personalize_task import assigned, evidence, evidence_report, open_task

from keyflock_compression import DeadzoneSpec, DenseSpec, encode, parse_spec
from keyflock_compression.container import parse
from keyflock_compression.limits import DEFAULT_LIMITS
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, RESPONSIBILITIES
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.sql.store import SqlStore


def encodings(delta: np.ndarray, container: bytes) -> list[bytes]:
    """Every form in which this update could lie about: 16 bytes of each are enough to know it by."""
    inside = parse(container, DEFAULT_LIMITS)
    streams = [zstandard.ZstdDecompressor().decompress(stream) for stream in inside.streams]
    numbers = [delta.astype(kind).tobytes() for kind in ("<f4", ">f4", "<f8", "<f2")]
    weighted = (delta * np.float32(7)).astype("<f4").tobytes()
    ending = container[-24:]  # with the digest; how a container begins says nothing of what is in it
    whole = [ending, *inside.streams, *streams, *numbers, weighted, delta[::-1].tobytes()]
    return [form[8:24] for form in whole if len(form) >= 24 and any(form[8:24])]


def all_bytes(folder: Path) -> bytes:
    """Return the bytes of every file in the folder."""
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


class Planting:
    """A round of eight phones whose updates are known by their bytes; after each, a look at all there is."""

    def __init__(self, harness: CoordinatorHarness, codec: str, everything: Callable[[], bytes]) -> None:
        self.harness = harness
        self.table = 'codec = "deadzone"\nstep_rms = 0.05' if codec == "deadzone" else f'codec = "{codec}"'
        self.spec = DeadzoneSpec(step_rms=0.05) if codec == "deadzone" else parse_spec({"codec": codec})
        self.everything = everything
        self.forms: list[list[bytes]] = []
        self.pending = 0

    async def run(self) -> None:
        """The round, from the first phone to the version, and the end of the process."""
        await self.harness.coordinator.start()
        await self.harness.create_population()
        await self.harness.task(round="goal = 8", codec=self.table)
        rng = np.random.default_rng(3)
        for _ in range(8):
            claims = await self.harness.assigned(await self.harness.enrol())
            delta = rng.standard_normal(LAYOUT.size).astype(np.float32)
            container = encode(delta, LAYOUT, self.spec, seed=1)
            self.forms.append(encodings(delta, container))
            assert len(self.forms[-1]) >= 6
            try:
                await self.harness.coordinator.reports.report(claims, Report(delta=container, examples=7))
            except ApiError as refused:
                self.pending += refused.code is ProblemCode.REPORT_PENDING
            self.search_files()
        await self.harness.coordinator.tick()
        self.search_files()
        await self.harness.coordinator.stop()
        self.search_files()

    def search_files(self) -> None:
        """None of what was planted is in it."""
        everything = self.everything()
        for forms in self.forms:
            assert not any(form in everything for form in forms)


@pytest.mark.parametrize("codec", ["float32", "dense", "deadzone"])
async def test_a_planted_update_is_nowhere_in_the_data_folder(tmp_path: Path, codec: str) -> None:
    harness = CoordinatorHarness(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobStore(tmp_path / "blobs"),
    )

    def everything() -> bytes:
        """The write-ahead log included."""
        found = all_bytes(tmp_path)
        assert b"SQLite format 3" in found
        return found

    planting = Planting(harness, codec, everything)
    await planting.run()

    assert planting.pending == 6


async def test_a_planted_update_is_nowhere_in_postgresqls_files(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    harness = CoordinatorHarness(store=SqlStore(postgres_url), blobs=LocalBlobStore(tmp_path / "blobs"))
    # Its write-ahead log holds every byte of every row that was written.
    folders = (tmp_path, postgres_server.data / "base", postgres_server.data / "pg_wal")
    planting = Planting(harness, "deadzone", lambda: b"".join(all_bytes(folder) for folder in folders))
    await planting.run()

    # What was written is found there: of each phone the digest of its report, and no more.
    claimed = planting.everything()
    assert b"assignments" in claimed
    # A page of the log may begin in the middle of one of them.
    assert any(digest in claimed for digest in await digests(postgres_url))
    assert planting.pending == 6


async def digests(url: str) -> list[bytes]:
    """Return the digests of all counted reports."""
    store = SqlStore(url)
    rows = await store.assignments.list_by_round(RoundId("t-1"))
    await store.close()
    return [row.report_digest for row in rows if row.report_digest is not None]


async def test_a_planted_phones_evidence_is_nowhere_in_the_data_folder(tmp_path: Path) -> None:
    harness = CoordinatorHarness(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobStore(tmp_path / "blobs"),
    )
    await harness.coordinator.start()
    await harness.create_population()
    await open_task(harness, "goal = 8")
    rng = np.random.default_rng(3)
    claims = await assigned(harness, 8)
    evidence_reports, planted = [], []
    for _ in claims:
        gain = float(np.float32(rng.uniform(0.01, 0.2)))
        vector = evidence(gain, late_gain=float(np.float32(rng.uniform(0.01, 0.2))))
        EVIDENCE_LAYOUT.unflatten(vector)[RESPONSIBILITIES][:] = rng.uniform(0.0, 0.25, (7, 4))
        evidence_reports.append(evidence_report(vector))
        # The gain and what follows it; the mixtures; the digest at the end of the container.
        planted += [vector[2:6].tobytes(), vector[-8:].tobytes(), evidence_reports[-1].delta[-16:]]

    for one, message in zip(claims, evidence_reports, strict=True):
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, message)
        everything = all_bytes(tmp_path)
        assert not any(form in everything for form in planted)
    await harness.coordinator.tick()
    await harness.coordinator.stop()

    everything = all_bytes(tmp_path)
    assert not any(form in everything for form in planted)
    assert b"gain_mean" in everything


async def test_a_planted_phones_scores_are_nowhere_in_the_data_folder(tmp_path: Path) -> None:
    harness = CoordinatorHarness(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobStore(tmp_path / "blobs"),
    )
    await harness.coordinator.start()
    await harness.create_population()
    await evaluate_task.publish_version(harness)
    await evaluate_task.open_evaluation(harness, "goal = 8\nmax_rounds = 1")
    rng = np.random.default_rng(3)
    claims = await evaluate_task.assigned(harness, 8)
    vectors = [evaluate_task.scores(*rng.uniform(0.1, 0.9, 2).tolist()) for _ in claims]
    messages = [evaluate_task.scores_report(vector) for vector in vectors]
    # The five numbers of the metric, in pairs; the digest at the end of the container.
    planted = [part.tobytes() for vector in vectors for part in (vector[3:5], vector[5:7], vector[6:8])]
    planted += [message.delta[-16:] for message in messages]

    for one, message in zip(claims, messages, strict=True):
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, message)
        everything = all_bytes(tmp_path)
        assert not any(form in everything for form in planted)
    await harness.coordinator.tick()
    await harness.coordinator.stop()

    everything = all_bytes(tmp_path)
    assert not any(form in everything for form in planted)
    assert b"recall_at_3.difference" in everything


async def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    delta = np.random.default_rng(3).standard_normal(LAYOUT.size).astype(np.float32)
    container = encode(delta, LAYOUT, DenseSpec(), seed=1)
    (tmp_path / "leak").write_bytes(b"..." + delta.tobytes() + b"...")

    assert any(form in (tmp_path / "leak").read_bytes() for form in encodings(delta, container))

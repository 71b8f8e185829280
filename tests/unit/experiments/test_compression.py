"""Arms that differ in bytes alone, on a network of 64 words that trains in this process."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from msgspec.structs import replace as changed

from benchmarks.compression_cost import last_line, section, verdict
from keyflock_client_sim.corpora.sources import Corpus
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.compression import run
from keyflock_client_sim.experiments.compression.experiment import compare, prepare_experiment, split_by_user
from keyflock_client_sim.experiments.compression.options import (
    DEFAULT,
    FLOAT32,
    CompressionError,
    CompressionOptions,
    arm_name,
    parse_arm,
)
from keyflock_client_sim.experiments.compression.picture import save_cost
from keyflock_client_sim.experiments.compression.report import BASELINE, CompressionCost
from keyflock_client_sim.experiments.compression.run import (
    ArmResult,
    CompressionExperiment,
    CompressionPoint,
    draw_cohort,
    run_arm,
)
from keyflock_client_sim.experiments.compression.training_rounds import (
    arm_toml,
    training_rounds,
)
from keyflock_client_sim.training.job import Job
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_client_sim.training.pool import AnswerT, WorkerPool
from keyflock_client_sim.training.train_job import TrainedDelta, TrainJob, local_training
from keyflock_compression import DEFAULT_SPEC, CodecSpec, DenseSpec, TopkSpec, decode_weights
from keyflock_models.evaluation.paired_bootstrap import Comparison
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_models.training.local_training import local_train
from keyflock_server.simulation import InMemoryTraining

CONFIG = ModelConfig.named("tiny")
LAYOUT = ParamLayout.for_config(CONFIG)
WORDS = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
SMALLER = "deadzone_rows target_nmse=0.5"
OPTIONS = CompressionOptions(
    arms=(DEFAULT_SPEC, changed(DEFAULT_SPEC, target_nmse=0.5)), rounds=3, goal=4, seeds=2, every=2
)


class HerePool:
    """Does jobs at once, in this process, and remembers whom it trained."""

    def __init__(self, folder: Path) -> None:
        self.models = ModelFolder(folder)
        self.workers = 1
        self.jobs: list[TrainJob] = []

    def publish(self, body: bytes) -> ModelDigest:
        return self.models.publish(body)

    async def train(self, job: TrainJob) -> TrainedDelta:
        self.jobs.append(job)
        return job.run(self.models)

    async def run(self, job: Job[AnswerT]) -> AnswerT:
        return job.run(self.models)


class IdlePool(HerePool):
    """Measures, and must not be held_out to train."""

    async def train(self, job: TrainJob) -> TrainedDelta:
        raise AssertionError(f"training again with seed {job.seed}")


@pytest.fixture
def pool(tmp_path: Path) -> HerePool:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return HerePool(folder)


def experiment(pool: HerePool, options: CompressionOptions = OPTIONS) -> CompressionExperiment:
    vocabulary = build_vocabulary(WORDS, [1 / len(WORDS)] * len(WORDS), oov=0.1, eos=0.1)
    rng = np.random.default_rng(0)

    def text(first: int) -> np.ndarray:
        messages = [" ".join(WORDS[(first + int(n)) % 6] for n in rng.integers(3, size=5)) for _ in range(20)]
        return encode_messages(vocabulary, messages, 20)

    weights = rng.normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    return CompressionExperiment(
        options,
        Checkpoint(CONFIG, vocabulary, weights),
        {f"phone-{number}": text(number) for number in range(9)},
        {f"user-{number}": text(number) for number in range(5)},
        cast("WorkerPool", pool),
    )


async def compared(pool: HerePool, folder: Path, options: CompressionOptions = OPTIONS) -> CompressionCost:
    return await compare(experiment(pool, options), folder, lambda _: None, lambda _: None)


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("compression-*.json"))


async def test_every_arm_trains_the_same_phones_in_the_same_order_with_the_same_luck(
    pool: HerePool, tmp_path: Path
) -> None:
    found = await compared(pool, tmp_path)

    a_run = OPTIONS.rounds * OPTIONS.goal
    trained = [(id(job.sequences), job.seed) for job in pool.jobs]
    held_out = [trained[begin : begin + a_run] for begin in range(0, len(trained), a_run)]
    first_seed, second_seed = held_out[:3], held_out[3:]
    assert len(held_out) == len(found.runs) * OPTIONS.seeds == 6
    assert first_seed[0] == first_seed[1] == first_seed[2]
    assert second_seed[0] == second_seed[1] == second_seed[2]
    assert first_seed[0] != second_seed[0]


def test_a_cohort_has_each_phone_once_and_another_round_another_one() -> None:
    phones = tuple(f"phone-{number}" for number in range(50))

    first, second = (draw_cohort(phones, 20, seed=3, number=number) for number in (0, 1))

    assert len({one.phone for one in first}) == 20
    assert first == draw_cohort(phones, 20, seed=3, number=0)
    assert first != second


async def test_without_compression_an_arm_is_federated_averaging_by_hand(
    pool: HerePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[InMemoryTraining] = []

    def watched(task: str, start: Checkpoint) -> InMemoryTraining:
        made.append(training_rounds(task, start))
        return made[-1]

    monkeypatch.setattr(run, "training_rounds", watched)
    setting = experiment(pool)

    await run_arm(setting, FLOAT32, seed=7, on_round=lambda _: None)

    weights = setting.start.weights.astype(np.float64)
    first_moment = second_moment = np.zeros(LAYOUT.size)
    plan = local_training(made[0].plan)
    for number in range(OPTIONS.rounds):
        begin = decode_weights(_int8(weights.astype(np.float32), setting.start), LAYOUT)
        total, examples = np.zeros(LAYOUT.size), 0
        for member in draw_cohort(tuple(setting.phones), OPTIONS.goal, seed=7, number=number):
            trained = local_train(CONFIG, begin, setting.phones[member.phone], plan, seed=member.seed)
            total += trained.examples * trained.delta.astype(np.float64)
            examples += trained.examples
        # FedAdam as the demo's task has it: rate 0.015, b1 0.9, b2 0.99, eps 1e-4, bias corrected.
        mean = total / examples
        first_moment = 0.9 * first_moment + 0.1 * mean
        second_moment = 0.99 * second_moment + 0.01 * mean**2
        step = first_moment / (1 - 0.9 ** (number + 1))
        weights -= 0.015 * step / (np.sqrt(second_moment / (1 - 0.99 ** (number + 1))) + 1e-4)
    np.testing.assert_allclose(made[0].weights, weights, atol=1e-5)
    assert np.abs(weights - setting.start.weights).max() > 0.01


def _int8(weights: np.ndarray, start: Checkpoint) -> bytes:
    task = arm_toml(FLOAT32, goal=4, rounds=1)
    return training_rounds(task, replace(start, weights=weights)).download()


async def test_a_smaller_setting_sends_less_and_every_arm_learns(pool: HerePool, tmp_path: Path) -> None:
    found = await compared(pool, tmp_path, replace(OPTIONS, rounds=12, seeds=1, every=4))

    assert list(found.runs) == [BASELINE, DEFAULT, SMALLER]
    assert found.bytes_per_report(BASELINE) == pytest.approx(4 * LAYOUT.size, abs=200)
    assert found.bytes_per_report(SMALLER) < found.bytes_per_report(DEFAULT) < 0.5 * 4 * LAYOUT.size
    assert found.rounds == (0, 4, 8, 12)
    for arm in found.runs:
        assert found.curve(arm, 3)[0, -1] > found.curve(arm, 3)[0, 0] + 0.1
        assert found.sent_bytes(arm)[-1] == pytest.approx(12 * 4 * found.bytes_per_report(arm))


async def test_a_study_that_was_cut_off_goes_on_with_the_same_figures(pool: HerePool, tmp_path: Path) -> None:
    whole = await compared(pool, tmp_path)
    trained = len(pool.jobs)
    cached_files(tmp_path)[0].unlink()

    again = await compared(pool, tmp_path)
    idle = await compared(IdlePool(pool.models._folder), tmp_path)

    assert len(pool.jobs) == trained + OPTIONS.rounds * OPTIONS.goal
    assert again.summary() == idle.summary() == whole.summary()


async def test_what_is_kept_is_not_taken_for_another_study_nor_when_it_is_broken_or_unwanted(
    pool: HerePool, tmp_path: Path
) -> None:
    one = replace(OPTIONS, arms=(), seeds=1)
    a_run = OPTIONS.rounds * OPTIONS.goal
    await compared(pool, tmp_path, one)

    await compared(pool, tmp_path, replace(one, every=1))
    assert len(pool.jobs) == 2 * a_run
    for file in cached_files(tmp_path):
        file.write_bytes(file.read_bytes()[:-9])
    await compared(pool, tmp_path, one)
    assert len(pool.jobs) == 3 * a_run
    await compared(pool, tmp_path, replace(one, is_fresh=True))
    assert len(pool.jobs) == 4 * a_run


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("default", DEFAULT_SPEC),
        ("float32", FLOAT32),
        (SMALLER, changed(DEFAULT_SPEC, target_nmse=0.5)),
        ("deadzone_rows step_rms=4.0", changed(DEFAULT_SPEC, target_nmse=None, step_rms=4.0)),
        ("deadzone_rows budget_bytes=900", changed(DEFAULT_SPEC, target_nmse=None, budget_bytes=900)),
        ("deadzone_rows target_nmse=0.16 budget_bytes=900", changed(DEFAULT_SPEC, budget_bytes=900)),
        ("deadzone_rows target_nmse=0.16 zstd_level=9", changed(DEFAULT_SPEC, zstd_level=9)),
        ("topk keep_ratio=0.01", TopkSpec(keep_ratio=0.01)),
        ("dense entropy=none", DenseSpec(entropy="none")),
    ],
)
def test_an_arm_is_a_codec_and_its_fields_and_its_name_says_the_same(text: str, spec: CodecSpec) -> None:
    assert parse_arm(text) == spec
    assert parse_arm(arm_name(spec)) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "codec is ''; one of deadzone_rows"),
        ("zip", "codec is 'zip'; one of deadzone_rows"),
        ("default zstd_level=9", "default has no fields; name the codec deadzone_rows"),
        ("topk 0.01", "'0.01' is no FIELD=VALUE"),
        ("topk keep_ratio=much", "keep_ratio is 'much'; a number above 0"),
        ("deadzone_rows nmse=0.3", "unknown codec setting 'nmse'"),
        ("deadzone_rows target_nmse=0.3 step_rms=4", "needs its step"),
    ],
)
def test_an_arm_that_is_none_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(CompressionError, match=complaint.replace(".", r"\.")):
        parse_arm(text)


@pytest.mark.parametrize(("option", "minimum"), [("rounds", 1), ("goal", 4), ("seeds", 1), ("every", 1)])
def test_a_study_of_nothing_is_refused(option: str, minimum: int) -> None:
    with pytest.raises(CompressionError, match=f"--{option} is {minimum - 1}; at least {minimum} is needed"):
        CompressionOptions(**{option: minimum - 1})  # type: ignore[arg-type]  # all four are numbers


def corpus(users: int) -> Corpus:
    texts = tuple(UserText(f"u{number}", (" ".join(WORDS[:10]),) * 30) for number in range(users))
    return Corpus("made up", texts, lambda user: user.user)


def test_nobody_who_is_asked_trains_and_one_user_is_one_text() -> None:
    parts = split_by_user(corpus(40), replace(OPTIONS, pretrain="none", max_words=110))

    trained, held_out = ({one.user for one in texts} for texts in (parts.phones, parts.held_out))
    assert trained.isdisjoint(held_out)
    assert len(trained | held_out) == 40
    assert len(parts.held_out) == len(held_out)
    assert len(parts.phones) == 2 * len(trained)  # 300 words: two phones of 110, and 80 that are too few


def test_too_little_text_and_too_few_phones_are_said(pool: HerePool) -> None:
    with pytest.raises(CompressionError, match=r"made up: too few users with 100 words; lower --min-words"):
        split_by_user(corpus(2), replace(OPTIONS, pretrain="none"))

    options = replace(OPTIONS, pretrain="none", goal=30)
    parts = split_by_user(corpus(40), options)
    with pytest.raises(CompressionError, match=r"needs 30 phones and there are \d+; lower --goal"):
        prepare_experiment(options, experiment(pool).start, parts, cast("WorkerPool", pool))


def a_run(seed: int, hits: int, sent_bytes: int) -> ArmResult:
    begin = CompressionPoint(round=0, sent_bytes=0, hits_at_1=(5, 5), hits_at_3=(9, 9))
    end = changed(begin, round=6, sent_bytes=sent_bytes, hits_at_1=(hits, hits), hits_at_3=(40, 50))
    return ArmResult(seed=seed, words=(100, 100), points=(begin, end), reports=10, refused=0)


def test_page_picture_and_last_line_have_the_runs_figures(tmp_path: Path) -> None:
    runs = {
        BASELINE: tuple(a_run(seed, 20, 40_000) for seed in (0, 1)),
        DEFAULT: tuple(a_run(seed, 18, 400) for seed in (0, 1)),
    }
    found = CompressionCost(
        runs=runs, specs={BASELINE: FLOAT32, DEFAULT: DEFAULT_SPEC}, parameters=1_000, phones=30, goal=5
    )

    page = section(found, replace(OPTIONS, size="full"))
    save_cost(found, tmp_path / "cost.png", title="two arms")

    assert "| float32 | 20.00 |  | 45.00 |  | 4.0 | 32.000 | 1 times |" in page
    assert (
        "| **default** | 18.00 | -2.00 [-2.00, -2.00] | 45.00 | +0.00 [+0.00, +0.00] | 0.0 | 0.320 |" in page
    )
    assert "costs more than 0.2 points" in page
    assert last_line(found) == {
        "difference_points": -2.0,
        "low_points": -2.0,
        "high_points": -2.0,
        "bits_per_parameter": 0.32,
        "bytes_per_report": 40.0,
        "is_allowed": False,
    }
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("difference", "low", "high", "finding"),
    [
        (-0.0005, -0.0015, 0.0004, "costs no more than 0.2 points, interval and all"),
        (0.0040, 0.0010, 0.0070, "costs no more than 0.2 points, interval and all"),
        (-0.0005, -0.0025, 0.0015, "costs no more than 0.2 points, but the interval reaches further"),
        (-0.0030, -0.0050, -0.0010, "costs more than 0.2 points"),
    ],
)
def test_the_verdict_says_how_sure_it_is(difference: float, low: float, high: float, finding: str) -> None:
    assert finding in verdict(Comparison(difference, low, high, 0.95, users=80))

"""Two hours of a dozen phones against a real server process, and what the page says of it."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.day import disk_usage
from benchmarks.day_figures import DayFigures, figures
from benchmarks.day_fleet import ASSIGNED, TASK, TICK, TURNED_AWAY, DayRecord, run_day
from benchmarks.day_page import section
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_compression import DEFAULT_SPEC, encode
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary

CONFIG = ModelConfig.named("tiny")
LAYOUT = ParamLayout.for_config(CONFIG)
PHONES = 12
HOURS = 2.0
TASK_TOML = f"""
[task]
name = "{TASK}"
population = "en-US"
[round]
goal = 8
deadline_s = 600.0
[pacing]
min_s = 60.0
max_s = 180.0
[training]
learning_rate = 0.3
"""


@pytest.fixture(scope="module")
def day_and_figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[DayRecord, DayFigures]:
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    rng = np.random.default_rng(0)
    weights = rng.normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    # No two phones say the same: a copy of another's numbers makes no flush.
    numbers = rng.normal(0.0, 1e-3, (PHONES * 8, LAYOUT.size)).astype(np.float32)
    deltas = [encode(one, LAYOUT, DEFAULT_SPEC, seed=0) for one in numbers]
    folder: Path = tmp_path_factory.mktemp("day") / "server"
    running = run_day(
        folder,
        phones=PHONES,
        hours=HOURS,
        profile=PROFILES["ideal"],
        checkpoint=Checkpoint(CONFIG, vocabulary, weights).to_bytes(),
        task=TASK_TOML,
        deltas=deltas,
        tick_s=30.0,
    )
    day = asyncio.run(running)
    return day, figures(day, disk_usage(folder), phones=PHONES, hours=HOURS, delta_bytes=len(deltas[0]))


def test_every_call_and_every_pass_is_in_the_account(day_and_figures: tuple[DayRecord, DayFigures]) -> None:
    day, found = day_and_figures

    assert found.costs["enrol"].calls == PHONES
    assert found.costs[TICK].calls >= 2 * 3_600 / 30
    assert found.costs[ASSIGNED].calls == len(day.assigned_at)
    assert found.costs[TURNED_AWAY].calls == len(day.turned_away_at)
    assert all(cpu_s > 0.0 for samples in day.costs.values() for _, cpu_s in samples)


def test_what_phones_saw_is_what_the_server_keeps(day_and_figures: tuple[DayRecord, DayFigures]) -> None:
    day, found = day_and_figures

    assert found.reports == len(day.acked_at) >= 8 * found.rounds > 0
    assert found.disk_usage.rows["devices"] == PHONES
    assert found.disk_usage.rows["assignments"] == len(day.assigned_at)
    assert found.disk_usage.rows["model_versions"] == found.rounds + 1
    assert sum(found.check_ins_by_hour) == found.check_ins


def test_memory_is_the_server_processs_alone(day_and_figures: tuple[DayRecord, DayFigures]) -> None:
    _, found = day_and_figures

    assert [hour for hour, _ in found.memory] == pytest.approx(
        [0.25 * number for number in range(9)], abs=0.01
    )
    assert all(50 < size < 2_000 for _, size in found.memory)


def test_the_page_says_what_was_measured(day_and_figures: tuple[DayRecord, DayFigures]) -> None:
    day, found = day_and_figures
    page = section([found])

    row = next(line for line in page.splitlines() if line.startswith("| pass over what is due"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"{len(day.costs[TICK])}"
    assert float(cells[2]) == pytest.approx(
        1e3 * np.median([cpu_s for _, cpu_s in day.costs[TICK]]), abs=0.006
    )
    reports = re.search(r"\*\*(\S+) ms a report\*\*", page)
    assert reports is not None
    spent_s = sum(cpu_s for _, cpu_s in day.costs["report"])
    assert float(reports[1]) == pytest.approx(1e3 * spent_s / len(day.acked_at), abs=0.006)

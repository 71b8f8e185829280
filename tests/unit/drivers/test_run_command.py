"""``keyflock-sim run``, as a person types it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary

TASK = """
[task]
name = "t"
population = "en-US"
[round]
goal = 4
max_rounds = 2
[pacing]
min_s = 5.0
max_s = 60.0
"""
PERSONALIZE = (
    TASK.replace("[round]", 'kind = "personalize"\n[round]') + "[personalising]\nwords_needed = 100\n"
)


def _run(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from keyflock_client_sim.cli import main; main()", "run", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    # Where the product is not installed but found by its path, the command must find the same one.
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    # Compiled programs are shared with other tests.
    environment |= {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    if cache:
        environment["XDG_CACHE_HOME"] = str(cache)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 2, "--url"),
        (("--url", "http://127.0.0.1:1", "--virtual"), 2, "--url"),
        (("--virtual",), 2, "--checkpoint"),
        (("--url", "http://127.0.0.1:1", "--profile", "fast"), 5, "fast"),
        (("--url", "http://127.0.0.1:1"), 3, "no server answers"),
        (("--url", "nonsense"), 2, "http:// is missing"),
        (("--url", "http://127.0.0.1:1", "--devices", "0"), 2, "devices"),
        (("--virtual", "--checkpoint", "no.safetensors", "--task", "no.toml"), 5, "no.safetensors"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    finished = _run(*arguments)

    assert finished.returncode == code
    assert complaint in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert finished.stdout == ""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this file's own, in which the second run finds the first one's compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("task", [TASK, PERSONALIZE], ids=["train", "personalize"])
def test_phones_learn_in_virtual_time_and_the_figures_are_one_json_line(
    tmp_path: Path, cache: Path, task: str
) -> None:
    words = [f"word{number}" for number in range(60)]
    rng = random.Random(1)
    (tmp_path / "users.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "user": f"user-{number}",
                    "messages": [" ".join(rng.choices(words, k=8)) for _ in range(20)],
                }
            )
            + "\n"
            for number in range(10)
        )
    )
    config = ModelConfig.named("tiny")
    weights = (
        np.random.default_rng(0).normal(0.0, 0.1, ParamLayout.for_config(config).size).astype(np.float32)
    )
    vocabulary = build_vocabulary(words, [1 / 60] * 60, oov=0.1, eos=0.1)
    (tmp_path / "v0.safetensors").write_bytes(Checkpoint(config, vocabulary, weights).to_bytes())
    (tmp_path / "task.toml").write_text(task)

    finished = _run(
        "--virtual",
        "--json",
        *("--checkpoint", str(tmp_path / "v0.safetensors")),
        *("--task", str(tmp_path / "task.toml")),
        *("--data", str(tmp_path / "users.jsonl")),
        *("--devices", "8", "--workers", "1"),
        cache=cache,
    )

    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    summary = json.loads(line)
    assert summary["devices"] == 8
    assert summary["acked_by_round"] == {"t-1": 4, "t-2": 4}
    assert summary["reports_acked"] == 8

"""In virtual time the seed decides everything: two processes print the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fault("F13")

PROGRAM = Path(__file__).with_name("seeded_run.py")


def run(seed: int, hash_seed: str) -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(PROGRAM), str(seed)]
    return subprocess.run(command, capture_output=True, check=True, timeout=300, env=environment).stdout


@pytest.mark.slow
def test_the_same_seed_gives_the_same_events_and_rounds_in_two_processes() -> None:
    one, same = run(9, "1"), run(9, "2")

    summary = json.loads(one)
    assert one == same
    # Enough has happened that could have differed.
    assert summary["rounds_closed"] >= 2
    assert summary["turned_away"]
    assert summary["endings"]
    assert summary["troubles"]

"""A test that hangs ends its process, so that nobody waits for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_test_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(
        "import threading\n\ndef test_waits_for_ever():\n    threading.Event().wait()\n"
    )
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    short = ["-o", "faulthandler_timeout=1", "-p", "no:cacheprovider"]

    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *config, *short, str(tmp_path / "test_hanging.py")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 1
    assert "test_waits_for_ever" in finished.stderr


def test_no_test_has_so_little_time_that_a_busy_machine_ends_it(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("faulthandler_timeout")) == 1_800
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True

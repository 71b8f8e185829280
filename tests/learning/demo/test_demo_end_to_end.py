"""The command as a newcomer runs it, with a model so small that it only takes seconds."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from keyflock_client_sim.cli import main; main()", "demo"]
QUICK = ["--pretrain", "none", "--size", "tiny", "--goal", "8", "--devices", "20"]
GONE_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of their own, so that what a user has cached neither helps nor is touched."""
    pytest.importorskip("matplotlib", reason="the demo's extra is not installed")
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def installed_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Install the project's wheel in a new environment, beside this one's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    binaries = folder / "env" / "bin"
    subprocess.run(
        [*pip, "--python", str(binaries / "python"), "install", "--no-deps", str(wheel)], check=True
    )
    (site_packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # A line of a .pth file adds a folder, but not the editable project that the folder's own .pth files name.
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    assert (site_packages / "keyflock_server" / "py.typed").is_file()
    return [str(binaries / "keyflock-sim"), "demo"]


@pytest.fixture
def begun(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A demo whose rounds have begun."""
    options = [*QUICK, "--rounds", "500"]
    with subprocess.Popen(
        [*COMMAND, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.split()[:3] == ["0", "-", "-"]:
                break
        else:
            pytest.fail(f"the demo ended before its first round: {output}")
        yield process
        process.kill()


def test_a_demo_of_the_built_wheel_ends_with_one_json_line_and_goes_on_in_the_same_folder(
    environment: dict[str, str], installed_command: list[str], tmp_path: Path
) -> None:
    command = [*installed_command, *QUICK, "--rounds", "2", "--keep", str(tmp_path / "kept"), "--json"]

    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)
    )

    assert len(first.stdout.splitlines()) == 1
    summary, later = json.loads(first.stdout), json.loads(second.stdout)
    assert summary["rounds"] == later["rounds"] == 2
    assert summary["reports_acked"] == summary["reports_counted"] >= 16
    assert later["reports_acked"] == later["reports_counted"] >= 16
    assert [point["version"] for point in summary["curve"]] == [0, 1, 2]
    assert [point["version"] for point in later["curve"]] == [0, 3, 4]
    assert summary["start_recall_at_1"] == later["start_recall_at_1"]
    assert summary["fp32_bytes"] == 4 * summary["parameters"]
    assert json.loads((tmp_path / "kept" / "summary.json").read_text()) == later
    assert (tmp_path / "kept" / "learning_curve.png").is_file()
    assert "on 10 phones that took no part" in first.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_told_to_end_leaves_no_process_behind(
    begun: subprocess.Popen[str], ending: signal.Signals
) -> None:
    children = psutil.Process(begun.pid).children(recursive=True)

    begun.send_signal(ending)
    code = begun.wait(GONE_WITHIN_S)

    assert len(children) >= 2
    assert code == 130
    assert psutil.wait_procs(children, timeout=0)[1] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_demo_that_is_killed_leaves_no_process_behind(begun: subprocess.Popen[str]) -> None:
    children = psutil.Process(begun.pid).children(recursive=True)

    begun.send_signal(signal.SIGKILL)
    begun.wait(GONE_WITHIN_S)

    assert len(children) >= 2
    assert psutil.wait_procs(children, timeout=GONE_WITHIN_S)[1] == []


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--data", "nowhere.jsonl"], 5, "nowhere.jsonl"),
        (["--size", "enormous"], 5, "--size"),
        (["--goal", "2"], 2, "--goal"),
        (["--pretrain", "nowhere.safetensors"], 5, "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_an_exit_code(
    environment: dict[str, str], options: list[str], code: int, word: str
) -> None:
    finished = subprocess.run(
        [*COMMAND, *options], env=environment, capture_output=True, text=True, check=False
    )

    assert finished.returncode == code
    assert len(finished.stderr.splitlines()) == 1
    assert word in finished.stderr

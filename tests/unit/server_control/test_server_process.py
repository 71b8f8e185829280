"""Nothing is left behind: the child ends with the block, with an error, and with a parent that is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from keyflock_client_sim.server_control.server_process import ServerStartError, running_server

FAKE_SERVER = Path(__file__).with_name("fake_server_process.py")
GONE_WITHIN_S = 120.0


def manner(name: str) -> list[str]:
    return [sys.executable, str(FAKE_SERVER), name]


def test_the_server_is_there_in_the_block_and_gone_after_it(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", command=manner("good")) as server:
        assert server.is_alive()
        assert server.sdk_url == "http://127.0.0.1:1"
        assert server.admin_token() == "secret"
        assert psutil.pid_exists(server.pid)

    assert not psutil.pid_exists(server.pid)
    assert server.stop() == -signal.SIGTERM


def test_the_server_is_gone_after_an_error_in_the_block(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        running_server(tmp_path / "data", command=manner("good")) as server,
    ):
        raise KeyboardInterrupt

    assert not psutil.pid_exists(server.pid)


def test_a_server_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", command=manner("deaf")) as server:
        code = server.stop(timeout_s=0.2)

    assert code == -signal.SIGKILL


def test_a_server_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerStartError, match=r"ended at once with code 1.*the folder is on fire"),
        running_server(tmp_path / "data", command=manner("broken")),
    ):
        pytest.fail("it cannot have started")


def test_a_silent_server_is_given_up_and_ended(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}

    with (
        pytest.raises(ServerStartError, match="did not announce itself"),
        running_server(tmp_path / "data", command=manner("silent"), start_timeout_s=0.3),
    ):
        pytest.fail("it cannot have started")

    assert {child.pid for child in psutil.Process().children()} == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_the_server_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    program = (
        "import sys, pathlib; from keyflock_client_sim.server_control.server_process import running_server\n"
        f"with running_server(pathlib.Path({data_dir!r}), command={manner('good')!r}) as server:\n"
        "    print(server.pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))

        parent.send_signal(signal.SIGKILL)

        child.wait(GONE_WITHIN_S)
        assert not child.is_running()

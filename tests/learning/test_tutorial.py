"""The tutorial's commands, in their order, with a model so small that it only takes seconds."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
#: What makes the page's run small. Each text must be there.
SMALLER_PAGE = {
    "--size small --epochs 4": "--size tiny --epochs 0.3",
    "public 40": "public 24",
    "phones 20": "phones 8",
    "--devices 20 --seconds 300": "--devices 8 --seconds 60 --workers 1",
}
#: A tiny model forgets fast: with a smaller rate no version fails the checks.
SMALLER_TASK = {
    "goal = 8": "goal = 4",
    "max_rounds = 10": "max_rounds = 2",
    "learning_rate = 1.0": "learning_rate = 0.1",
}
#: A server compiles one program for suggestions instead of one for each of forty shapes.
SERVER = """\
#!{python}
import sys
if sys.argv[1] == "serve":
    from keyflock_models.serving import trunk_predictions
    trunk_predictions.BATCH_SIZES, trunk_predictions.CONTEXT_LENGTHS = (1,), (20,)
from keyflock_server.cli import main
main()
"""
PHONES = "#!{python}\nfrom keyflock_client_sim.cli import main\nmain()\n"
PYTHON = '#!/bin/sh\nexec {python} "$@"\n'
PATIENCE_S = 300.0


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"the tutorial does not say {old!r} any more"
        text = text.replace(old, new)
    return text


def commands() -> list[str]:
    """The page's blocks of commands; the first sets up what a test has already."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (DOCS / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "pip install" in blocks[0]
    return blocks[1:]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The state that the first block leaves: the commands on the path, and the examples' folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"keyflock": SERVER, "keyflock-sim": PHONES, "python": PYTHON}.items():
        program = programs / name
        program.write_text(text.format(python=sys.executable))
        program.chmod(0o755)
    examples = tmp_path / "examples"
    shutil.copytree(DOCS / "examples", examples)
    task = examples / "tutorial.toml"
    task.write_text(replaced(task.read_text(), SMALLER_TASK))
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "EXAMPLES": str(examples),
        "KEYFLOCK_ADMIN_PORT": "0",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of tiny models, compiling takes most of the time
    }


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell that runs the page, in a process group of its own."""
    folder = tmp_path / "tutorial"
    folder.mkdir()
    port = free_port()
    page = replaced("".join(commands()), {**SMALLER_PAGE, "8700": str(port)})
    script = tmp_path / "tutorial.sh"
    script.write_text(f"set -eu\nexport KEYFLOCK_PORT={port}\ntrap 'kill 0' INT TERM\n{page}")
    with subprocess.Popen(
        ["bash", str(script)], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        yield process
        if process.poll() is None:
            os.killpg(process.pid, 9)


def test_own_text_becomes_suggestions_that_phones_have_improved(
    shell: subprocess.Popen[str], tmp_path: Path
) -> None:
    printed, _ = shell.communicate(timeout=PATIENCE_S)

    log = (tmp_path / "tutorial" / "server.log").read_text()
    assert shell.returncode == 0, f"{printed}\n{log}"
    suggested = (tmp_path / "tutorial" / "suggestions.txt").read_text()
    found = re.fullmatch(r"version (\d+), after 'see you at the': (.+)\n", suggested)
    assert found is not None, suggested
    assert int(found[1]) >= 1
    assert len(found[2].split("  ")) == 3
    assert "finished" in printed

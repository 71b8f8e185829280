"""What a process imports at its start: nothing that takes seconds, and that it may never need."""

import subprocess
import sys

import pytest

#: Each takes a tenth of a second or more.
HEAVY = ("alembic", "flax", "jax", "matplotlib", "optax", "wordfreq")
#: The libraries of a server, which a command that calls one, or prints its help, does without.
OF_SERVERS = ("aiohttp", "numpy", "rich", "sqlalchemy", "structlog")

SERVER = """
import keyflock_server.bootstrap, keyflock_server.coordinator, keyflock_server.suggestions.service
import keyflock_server.http.application, keyflock_server.http.sdk, keyflock_server.storage.sql.store
show_loaded()
from keyflock_server.runtime.numeric_libraries import import_now
import_now()
show_loaded()
"""
HELP = """
from {module} import main
sys.argv = ["program", "--help"]
with contextlib.suppress(SystemExit):
    main()
show_loaded()
"""


def printed(program: str, libraries: tuple[str, ...]) -> list[str]:
    """Return the lines of a program, whose ``show_loaded`` prints which of these libraries are loaded."""
    start = (
        "import contextlib, sys\n"
        "def show_loaded():\n"
        f"    print('loaded:', *(name for name in {libraries!r} if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_server_becomes_ready_without_what_only_closing_a_round_needs() -> None:
    before, after = printed(SERVER, HEAVY)

    assert (before, after) == ("loaded:", "loaded: flax jax optax")


@pytest.mark.parametrize("module", ["keyflock_server.cli", "keyflock_client_sim.cli"])
def test_a_command_line_prints_its_help_without_any_of_its_libraries(module: str) -> None:
    assert printed(HELP.format(module=module), (*HEAVY, *OF_SERVERS))[-1] == "loaded:"

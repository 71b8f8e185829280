"""``make docs``: docs/cli.md from the commands themselves; ``test_cli_page`` compares the two."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from keyflock_server.cli.application import app

PAGE: Final = Path(__file__).parents[2] / "docs" / "cli.md"

_BEGINNING: Final = """# The commands of `keyflock`

Written by `make docs`. How to begin is in [tutorial.md](tutorial.md); the exit codes are in
[server/README.md](../server/README.md).

"""


def page() -> str:
    """Return the page: a section for each command, in the order of ``keyflock --help``."""
    return _BEGINNING + "\n".join(_section(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, with its full name."""
    yield from _below("keyflock", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer's own, untyped
    below = getattr(command, "commands", None)
    if below is None or path == "keyflock":
        yield path, command
    for name, one in (below or {}).items():
        yield from _below(f"{path} {name}", one)


def _section(path: str, command: Any) -> str:  # noqa: ANN401 - typer's own, untyped
    rows = [
        f"| {_spelling(one)} | {'required' if one.required else ''} | {_meaning(one)} |"
        for one in command.params
    ]
    table = ["", "| parameter | | what it is |", "|---|---|---|", *rows] if rows else []
    return "\n".join((f"## `{path}`\n", re.sub(r"\s+", " ", command.help or "").strip(), *table, ""))


def _spelling(parameter: Any) -> str:  # noqa: ANN401 - typer's own, untyped
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _meaning(parameter: Any) -> str:  # noqa: ANN401 - typer's own, untyped
    meaning = re.sub(r"\s+", " ", parameter.help or "").replace("|", "\\|").strip()
    return f"{meaning} Or `{parameter.envvar}`." if isinstance(parameter.envvar, str) else meaning


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

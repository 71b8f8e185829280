"""A command that the operations page shows whole is one that the command line takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from keyflock_server.cli.application import app

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
#: Whole commands have their arguments or options; the others only name a command.
COMMANDS = sorted(
    text for text in set(re.findall(r"`keyflock ([^`]+)`", PAGE)) if re.search("[A-Z]|--", text)
)
NAMED = sorted(set(re.findall(r"`keyflock ([a-z -]+)`", PAGE)) - set(COMMANDS))


def found(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after them."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("text", COMMANDS)
def test_a_whole_command_has_the_arguments_and_options_that_it_needs(text: str) -> None:
    command, words = found(shlex.split(text))
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = {name: one for one in command.params for name in one.opts if name.startswith("--")}
    given = [word for word in words if word.startswith("--")]

    assert [name for name in given if name not in options] == []
    valued = sum(not options[name].is_flag for name in given)
    required = {one.name for one in options.values() if one.required}
    assert required <= {options[name].name for name in given}
    assert len(words) - len(given) - valued == sum(one.required for one in arguments)


@pytest.mark.parametrize("text", NAMED)
def test_a_command_that_is_only_named_is_there(text: str) -> None:
    command, rest = found(text.split())

    assert rest == []
    assert command is not None

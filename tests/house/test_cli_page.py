"""The page of the command line is what the commands say, and each of them says what it does."""

from tests.house import cli_page


def test_the_page_of_commands_is_what_make_docs_writes() -> None:
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run `make docs`"


def test_every_command_and_parameter_says_what_it_is() -> None:
    silent = [
        f"{path} {parameter.name}"
        for path, command in cli_page.commands()
        for parameter in command.params
        if not parameter.help
    ]

    assert silent == []
    assert [path for path, command in cli_page.commands() if not command.help] == []

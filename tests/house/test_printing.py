"""What programs print is printed as it is: no text is taken for markup, and our own needs only Latin-1."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.house.structure import ROOT, files
from typer.testing import CliRunner

from keyflock_client_sim.cli.application import app as simulator
from keyflock_load_tests.cli import app as load_tests
from keyflock_server.cli.application import app as server

pytestmark = pytest.mark.fault("F14")

#: Everything that prints to a person.
PRINTING = (
    *files("server/keyflock_server", "client_sim/keyflock_client_sim", "load_tests"),
    *sorted((ROOT / "docs" / "examples").glob("*.py")),
)
#: The only places that make consoles.
CONSOLES = {"client_sim/keyflock_client_sim/console.py", "server/keyflock_server/cli/output.py"}
#: Begins of rich's markup that were in use once.
MARKUP = ("[/", "[bold", "[dim", "[red", "[green", "[yellow")
#: The name of a goal is in the JSON of earlier runs; another sign is printed in its place.
NOT_PRINTED = {"load_tests/keyflock_load_tests/scenario.py", "load_tests/keyflock_load_tests/report.py"}
APPS = pytest.mark.parametrize("app", [server, simulator, load_tests], ids=["server", "simulator", "load"])


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def calls(path: Path, *names: str) -> Iterator[ast.Call]:
    """Yield the calls in a file whose last part of the name that is called is one of these."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in names):  # most files need not be parsed
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
            yield node


def has(call: ast.Call, name: str, value: object) -> bool:
    return any(
        one.arg == name and isinstance(one.value, ast.Constant) and one.value.value is value
        for one in call.keywords
    )


def texts(path: Path) -> Iterator[ast.Constant]:
    """Yield the texts of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose:
            yield node


def test_every_console_takes_no_text_for_markup() -> None:
    found = [(path, call) for path in PRINTING for call in calls(path, "Console")]

    assert {str(path.relative_to(ROOT)) for path, _ in found} == CONSOLES
    assert [place(path, call) for path, call in found if not has(call, "markup", False)] == []


def test_no_part_of_rich_that_takes_texts_for_markup_is_used() -> None:
    columns = [(path, call) for path in PRINTING for call in calls(path, "TextColumn")]
    statuses = {
        str(path.relative_to(ROOT))
        for path in PRINTING
        for call in calls(path, "status")
        if "console" in ast.unparse(call.func)
    }
    others = [
        place(path, call)
        for path in PRINTING
        for call in calls(path, "from_markup", "render_markup", "Spinner", "Prompt", "track")
    ]

    assert len(columns) == 5
    assert [place(path, call) for path, call in columns if not has(call, "markup", False)] == []
    assert statuses == {"client_sim/keyflock_client_sim/console.py"}
    assert others == []


def test_no_text_of_ours_has_markup_that_would_be_printed() -> None:
    with_rich = [path for path in PRINTING if "console" in path.read_text(encoding="utf-8")]

    assert [
        place(path, one) for path in with_rich for one in texts(path) if str(one.value).startswith(MARKUP)
    ] == []


def test_our_own_texts_need_no_more_than_latin_1() -> None:
    looked_at = [path for path in PRINTING if str(path.relative_to(ROOT)) not in NOT_PRINTED]
    benchmarks = ROOT / "load_tests" / "benchmarks"  # they write pages of UTF-8

    assert [
        place(path, one)
        for path in looked_at
        if benchmarks not in path.parents
        for one in texts(path)
        if not is_latin_1(str(one.value))
    ] == []


def is_latin_1(text: str) -> bool:
    return all(ord(character) < 256 for character in text)


@APPS
def test_no_help_page_loses_a_bracket_or_needs_more_than_ascii(app: typer.Typer) -> None:
    assert app.rich_markup_mode is None
    pages = [help_page(app, path) for path in command_paths(typer.main.get_command(app))]

    assert all(page.startswith("Usage: ") and page.isascii() for page in pages)


def test_the_brackets_of_a_help_page_are_there() -> None:
    assert "[[NAME, ...], [[SIZE, ...], ...]]" in " ".join(help_page(simulator, ("codec", "encode")).split())


@APPS
def test_every_program_says_its_version(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["--version"])

    assert (done.exit_code, done.stdout.split()[0]) == (0, "keyflock")
    assert done.stdout.split()[1][0].isdigit()


def help_page(app: typer.Typer, path: tuple[str, ...]) -> str:
    return CliRunner().invoke(app, [*path, "--help"]).stdout


def command_paths(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of every group of commands."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from command_paths(inner, (*path, name))

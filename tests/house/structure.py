"""Measures how names and files keep the rules: ``make house`` prints it, ``test_structure.py`` asserts it.

The rules: two public classes never share a name, no docstring or field comment begins with "Of ", no product
file has more than 400 lines, no module imports itself through others, and no retired identifier is defined
again. ``retired_names.txt`` has a line for each of those: the identifier, a tab, and the path where it stood.
A ``*`` before it retires the identifier in the whole repository; without one the word is a plain one that
may be right elsewhere, and it is retired in that file or folder and in what the file has become.
"""

import ast
import collections
import functools
import graphlib
import io
import json
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grimp

ROOT: Final = Path(__file__).resolve().parents[2]
PRODUCT: Final = (
    "server/keyflock_server",
    "client_sim/keyflock_client_sim",
    "models/keyflock_models",
    "compression/keyflock_compression",
    "load_tests/keyflock_load_tests",
)
CODE: Final = ("server", "client_sim", "models", "compression", "load_tests", "tests")
MAX_LINES: Final = 400
#: Lines of the product before its names were changed, counted by ``product_lines``.
PRODUCT_LINES_BEFORE: Final = 46_208
_RETIRED: Final = ROOT / "tests" / "house" / "retired_names.txt"


@dataclass(frozen=True, slots=True)
class RetiredName:
    """An identifier that must not come back."""

    name: str
    path: str
    is_retired_everywhere: bool


@dataclass(frozen=True, slots=True)
class SourceNames:
    """What the rules ask of a file."""

    #: Each with its line, as below.
    definitions: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    #: Docstrings and field comments that begin with a word that they must not begin with.
    of_texts: tuple[tuple[int, str], ...]


def retired_names() -> list[RetiredName]:
    """Return the list of retired identifiers."""
    rows = [line.split("\t") for line in _RETIRED.read_text(encoding="utf-8").splitlines() if line]
    return [RetiredName(name.lstrip("*"), path, name.startswith("*")) for name, path in rows]


def files(*folders: str) -> list[Path]:
    """Return all Python files below these folders, in order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def retired_names_in_use() -> list[str]:
    """Return a line for each definition of a retired identifier."""
    everywhere = {retired.name for retired in retired_names() if retired.is_retired_everywhere}
    local: dict[str, set[str]] = collections.defaultdict(set)
    for retired in retired_names():
        if not retired.is_retired_everywhere:
            local[retired.path].add(retired.name)
    found = []
    for path in files(*CODE):
        place = path.relative_to(ROOT).as_posix()
        banned = everywhere.union(*(names for start, names in local.items() if place.startswith(start)))
        found += [f"{place}:{line}: {name}" for name, line in _read(path).definitions if name in banned]
    return found


def duplicate_class_names() -> list[str]:
    """Return a line for each public class name that is defined more than once."""
    places: dict[str, list[str]] = collections.defaultdict(list)
    for path in files(*CODE):
        for name in _read(path).classes:
            places[name].append(path.relative_to(ROOT).as_posix())
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def of_docstrings() -> list[str]:
    """Return a line for each docstring or field comment that begins with "Of "."""
    found = []
    for path in files(*CODE):
        place = path.relative_to(ROOT).as_posix()
        found += [f"{place}:{line}: {text}" for line, text in _read(path).of_texts]
    return found


def files_over_400() -> list[str]:
    """Return a line for each product file that is too long."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(*PRODUCT)}
    return [f"{path.relative_to(ROOT).as_posix()}: {n} lines" for path, n in lengths.items() if n > MAX_LINES]


def circles() -> list[str]:
    """Return a line for each circle of imports; a circle is taken apart before the next is looked for."""
    graph = grimp.build_graph(*(folder.rpartition("/")[2] for folder in PRODUCT), cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    found = []
    while True:
        try:
            graphlib.TopologicalSorter(imports).prepare()
        except graphlib.CycleError as error:
            circle: list[str] = error.args[1]
            found.append(" -> ".join(reversed(circle)))
            imports[circle[1]].discard(circle[0])
        else:
            return found


def product_lines() -> int:
    """Return how many lines the product's files have, without tests and benchmarks."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(*PRODUCT))


@functools.cache
def _read(path: Path) -> SourceNames:
    """Parse a file, once for all rules; its tree is not kept, for all trees together take much memory."""
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    of_texts = (*_of_docstrings(nodes), *_of_comments(text))
    return SourceNames(tuple(_definitions(nodes)), tuple(classes), of_texts)


def _of_docstrings(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring is not None and docstring.startswith("Of "):
                yield getattr(node, "lineno", 1), docstring.splitlines()[0]


def _definitions(nodes: list[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case _:
                pass


def _of_comments(text: str) -> Iterator[tuple[int, str]]:
    if "#: Of " not in text:
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#: Of "):
            yield token.start[0], token.string


def main() -> int:
    """Print every finding, then the figures as one line of JSON; the exit code is 1 where there is one."""
    findings = {
        "retired_names": retired_names_in_use(),
        "duplicate_class_names": duplicate_class_names(),
        "of_docstrings": of_docstrings(),
        "files_over_400": files_over_400(),
        "circles": circles(),
    }
    for rule, lines in findings.items():
        for line in lines:
            sys.stdout.write(f"{rule}: {line}\n")
    figures = {rule: len(lines) for rule, lines in findings.items()}
    lengths = {"product_lines_before": PRODUCT_LINES_BEFORE, "product_lines_after": product_lines()}
    sys.stdout.write(json.dumps(figures | lengths) + "\n")
    return 1 if any(figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The core files whose tests are tried, the changes that are drawn, and the tests that are to notice them."""

import hashlib
import json
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.mutants.operators import Mutant, mutants

ROOT: Final = Path(__file__).resolve().parents[2]
_FOLDER: Final = Path(__file__).parent
#: One change for so many lines, and at least and at most so many for a file.
_LINES_PER_MUTANT: Final = 14
_MIN_MUTANTS: Final = 6
_MAX_MUTANTS: Final = 18


@dataclass(frozen=True, slots=True)
class CoreFile:
    """A file and the tests that are to notice its changes, as paths from the root."""

    path: str
    tests: tuple[str, ...]

    def source(self, root: Path = ROOT) -> str:
        """Return the text of the file."""
        return (root / self.path).read_text(encoding="utf-8")

    def all_mutants(self) -> list[Mutant]:
        """Return every change of the file."""
        source = self.source()
        return [mutant for mutant in mutants(self.path, source) if mutant.compiles(source)]

    def drawn_mutants(self) -> list[Mutant]:
        """Return the changes that count, in the order of the file's text."""
        source = self.source()
        return drawn(mutants(self.path, source), source)

    def tests_digest(self, root: Path = ROOT) -> str:
        """Return the digest of the tests and of the ``conftest.py`` that they share."""
        files: set[Path] = set()
        for test in self.tests:
            path = root / test.partition("::")[0]
            files.update(path.rglob("*.py") if path.is_dir() else [path])
            files.update(parent / "conftest.py" for parent in path.parents if parent.is_relative_to(root))
        digest = hashlib.sha256(json.dumps(self.tests).encode())
        for path in sorted(files):
            if path.exists():
                digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class EquivalentMutant:
    """A change that no test can notice, and why."""

    path: str
    function: str
    change: str
    reason: str

    @property
    def key(self) -> str:
        """Return the name that the change has as a ``Mutant``."""
        return f"{self.path}::{self.function}: {self.change}"


def core_files() -> list[CoreFile]:
    """Return the files in the order of the list."""
    return [CoreFile(path, tuple(tests)) for path, tests in _toml("core_files.toml").items()]


def equivalent_mutants() -> list[EquivalentMutant]:
    """Return the changes that are named as making no difference."""
    return [EquivalentMutant(**entry) for entry in _toml("equivalent.toml").get("equivalent", [])]


def drawn(changes: list[Mutant], source: str) -> list[Mutant]:
    """Return a sample of a file's changes, each kind of change in its turn.

    Guarantees:
        The order is by the digest of a change's name, so nobody chooses, and a line that is added or removed
        elsewhere hardly moves the sample.
    """
    by_kind: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(changes, key=lambda each: hashlib.sha256(each.key.encode()).digest(), reverse=True):
        by_kind[mutant.operator].append(mutant)
    wanted = min(max(source.count("\n") // _LINES_PER_MUTANT, _MIN_MUTANTS), _MAX_MUTANTS)
    chosen: list[Mutant] = []
    while len(chosen) < wanted and any(by_kind.values()):
        for operator in sorted(by_kind):
            waiting = by_kind[operator]
            while waiting and not waiting[-1].compiles(source):
                waiting.pop()
            if waiting and len(chosen) < wanted:
                chosen.append(waiting.pop())
    return sorted(chosen, key=lambda each: (each.start, each.end, each.replacement))


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))

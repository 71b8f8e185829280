"""``make mutants``: makes small changes to the core files on purpose, and counts those that the tests notice.

For each file of ``core_files.toml`` a sample of all its small changes (``operators.py``) is drawn by
digest, so nobody chooses. Each is made in a copy of the tree, and the tests that are named for the file
run against it. Results are kept in ``results/mutants.jsonl``: a run that is stopped goes on where it was,
and a later run tries only what has changed, by the digests of the changed source and of its tests.
``--fresh`` tries all of them.

The last line on stdout is one JSON object: mutants (the changes drawn), killed (noticed), equivalent
(those of ``equivalent.toml``, which change nothing that a test could see). Exit status: 0 when at least
95 % of those that are not equivalent are noticed and at most 12 % are equivalent.

Two well-kept and freely licensed tools do not serve. mutmut 3.8 (BSD-3) leaves out every decorated
function and all that stands outside of functions, such as our constants, drops no guards, and draws no
sample: the files have 3,000 changes. cosmic-ray 8.7 (MIT) starts an interpreter for every change, four
seconds of imports each, edits the working tree, and has one test command for all files.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from tests.mutants.core_files import ROOT, CoreFile, core_files, equivalent_mutants
from tests.mutants.operators import Mutant
from tests.mutants.results import MutantResult, ResultFile, digest_of
from tests.mutants.workshop import RunResult, Workshop

RESULTS: Final = ROOT / "results" / "mutants.jsonl"
_MIN_KILLED_RATIO: Final = 0.95
_MAX_EQUIVALENT_RATIO: Final = 0.12


def main() -> int:
    """Try the changes, print the figures, and return the exit status."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets decides nothing then
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.mutants", *sys.argv[1:]])  # noqa: S606 - itself
    changes = {file: _changes(file, options) for file in core_files() if _is_named(file, options.files)}
    if options.list:
        for found in changes.values():
            sys.stdout.writelines(f"{mutant.path}:{mutant.line}: {_shown(mutant)}\n" for mutant in found)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copy, and ends the run under way
    equivalent = {named.key for named in equivalent_mutants()} if not options.equivalent else set()
    with Trials(changes, ResultFile(options.results), is_fresh=options.fresh) as trials:
        alive, counts = _try_all(changes, equivalent, trials)
    sys.stdout.writelines(f"not noticed: {mutant.path}:{mutant.line}: {_shown(mutant)}\n" for mutant in alive)
    sys.stdout.write(json.dumps(counts) + "\n")
    different = counts["mutants"] - counts["equivalent"]
    is_enough = counts["killed"] >= _MIN_KILLED_RATIO * different
    return 0 if is_enough and counts["equivalent"] <= _MAX_EQUIVALENT_RATIO * counts["mutants"] else 1


class Trials:
    """Tries changes, or finds what earlier runs found. A context manager.

    Guarantees:
        A result is kept under the digests of the files that were tried: the tree may be edited meanwhile.

    Args:
        files: The files whose changes are tried.
        results: The results of earlier runs, and of this one.
        is_fresh: Whether to try again what has a result.
    """

    def __init__(self, files: Iterable[CoreFile], results: ResultFile, *, is_fresh: bool) -> None:
        self._contents = {file: (file.source(), file.tests_digest()) for file in files}
        self._results = results
        self._is_fresh = is_fresh
        self._workshop: Workshop | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Begin; the tree is copied only once there is something to try."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the copy."""
        self._stack.close()

    def run(self, file: CoreFile, found: list[Mutant]) -> Iterator[tuple[Mutant, MutantResult, bool]]:
        """Yield each change with its result, and whether it was tried now."""
        source, tests_digest = self._contents[file]
        unchanged: RunResult | None = None
        for mutant in found:
            digest = digest_of(mutant, source, tests_digest)
            known = None if self._is_fresh else self._results.get(digest)
            if known is not None:
                yield mutant, known, False
                continue
            workshop = self._opened_workshop()
            if unchanged is None:
                unchanged = workshop.run_unchanged(file)
                _tell(f"{file.path}: its tests take {unchanged.wall_s:.1f} s")
            run = workshop.run_changed(mutant, file.tests, unchanged)
            result = MutantResult(
                digest, mutant.key, not run.has_passed, run.noticed_by, round(run.wall_s, 1)
            )
            self._results.add(result)
            yield mutant, result, True

    def _opened_workshop(self) -> Workshop:
        if self._workshop is None:
            self._workshop = self._stack.enter_context(Workshop())
            tree = self._workshop.tree
            copied = {file: (file.source(tree), file.tests_digest(tree)) for file in self._contents}
            if copied != self._contents:
                raise RuntimeError("Files were edited while the run began; begin it again.")
        return self._workshop


def _try_all(
    changes: dict[CoreFile, list[Mutant]], equivalent: set[str], trials: Trials
) -> tuple[list[Mutant], dict[str, int]]:
    """Return the changes that nobody noticed, and the figures."""
    total = sum(map(len, changes.values()))
    counts = {"mutants": total, "killed": 0, "equivalent": 0}
    alive: list[Mutant] = []
    number = 0
    for file, found in changes.items():
        different = [mutant for mutant in found if mutant.key not in equivalent]
        counts["equivalent"] += len(found) - len(different)
        killed = 0
        for mutant, result, is_new in trials.run(file, different):
            killed += result.is_killed
            if not result.is_killed:
                alive.append(mutant)
            number += 1
            if is_new:
                verdict = "noticed" if result.is_killed else "NOT NOTICED"
                _tell(f"{number}/{total} {verdict} {result.wall_s:5.1f} s  {_shown(mutant)}")
        counts["killed"] += killed
        same = len(found) - len(different)
        _tell(f"{file.path}: {killed} of {len(different)} noticed" + (f", {same} equivalent" if same else ""))
    return alive, counts


def _is_named(file: CoreFile, parts: list[str]) -> bool:
    return not parts or any(part in file.path for part in parts)


def _changes(file: CoreFile, options: argparse.Namespace) -> list[Mutant]:
    found = file.all_mutants() if options.all else file.drawn_mutants()
    return [mutant for mutant in found if options.change in mutant.key][: options.limit]


def _shown(mutant: Mutant) -> str:
    return f"[{mutant.operator}] {mutant.function}: {mutant.change}"


def _tell(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("files", nargs="*", help="parts of the paths of core files; none means all of them")
    parser.add_argument("--change", default="", help="only changes whose name contains this text")
    parser.add_argument("--limit", type=int, help="at most so many changes of each file")
    parser.add_argument("--all", action="store_true", help="every change of a file, not only those drawn")
    parser.add_argument("--fresh", action="store_true", help="try again what has a result")
    parser.add_argument("--equivalent", action="store_true", help="try those named as equivalent too")
    parser.add_argument("--list", action="store_true", help="print the changes and try none")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

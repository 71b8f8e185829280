"""The tool that changes core files on purpose: what it changes, what it draws, and that it notices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutants.core_files import ROOT, core_files, drawn, equivalent_mutants
from tests.mutants.operators import mutants
from tests.mutants.results import MutantResult, ResultFile, digest_of

SOURCE = '''\
"""A module."""

from dataclasses import dataclass

LIMIT = 3


@dataclass(frozen=True)
class Counter:
    count: int = 0

    def add(self, number: int) -> int:
        """Add 7."""
        if number < 0 or number > LIMIT:
            raise ValueError(f"{number} is not at most {LIMIT + 1}")
        self.count += number
        return self.count
'''


def changes_of(line: str) -> set[str]:
    """The line in all its changed forms."""
    source = f"async def f():\n    for x in y:\n        {line}\n"
    return {mutant.after for mutant in mutants("f.py", source)}


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("z = a < b", {"z = a <= b", "z = a > b"}),
        ("z = a >= b", {"z = a > b", "z = a <= b"}),
        ("z = a == b", {"z = a != b"}),
        ("z = a is not b", {"z = a is b"}),
        ("z = a not in b", {"z = a in b"}),
        ("z = a < b < c", {"z = a <= b < c", "z = a > b < c", "z = a < b <= c", "z = a < b > c"}),
        ("z = a and b", {"z = a or b", "z = ((b))", "z = ((a))"}),
        ("z = not a", {"z = (a)"}),
        ("z = a + b", {"z = a - b"}),
        ("z = a // b", {"z = a * b"}),
        ("z = a if b else c", {"z = a if (not (b)) else c"}),
        ("z = min(a, b)", {"z = max(a, b)"}),
        ("z = 3", {"z = 4", "z = 2"}),
        ("z = 0", {"z = 1"}),
        ("z = 0.5", {"z = 1.0"}),
        ("z = True", {"z = False"}),
        ("z = f(a, k=b, l=c)", {"z = f(a, l=c)", "z = f(a, k=b)"}),
        ("z.w = a", {"pass"}),
        ("z += a", {"pass", "z -= a"}),
        ("del a[b]", {"pass"}),
        ("a.b(c)", {"pass"}),
        ("await a(b)", {"pass", "try: await a(b) except Exception: pass"}),
        (
            "z = select(a).where(b, c)",
            {"z = (select(a))", "z = select(a).where(c)", "z = select(a).where(b)"},
        ),
        ("z = select(a).with_for_update()", {"z = (select(a))"}),
        ("raise A(b)", {"pass"}),
    ],
)
def test_each_kind_of_change_is_made(line: str, changed: set[str]) -> None:
    assert changes_of(line) == changed


@pytest.mark.parametrize(
    "line", ["_log.info(3, a=not b)", "assert a < 3", "assert_never(a)", "z = f'{a + 1}'", "z: A[3] = b"]
)
def test_what_says_nothing_about_the_tests_is_left_alone(line: str) -> None:
    assert changes_of(line) == set()


def test_a_guard_is_dropped_and_a_condition_always_holds() -> None:
    guard = mutants("f.py", "def f(a):\n    if a:\n        return b\n")
    condition = mutants("f.py", "def f(a):\n    if a:\n        b()\n")

    assert [(each.operator, each.after) for each in guard] == [("guard dropped", "if False:")]
    assert ("condition dropped", "if True:") in [(each.operator, each.after) for each in condition]


def test_a_handler_lets_its_error_pass_and_an_error_is_swallowed() -> None:
    source = "try:\n    a = b\nexcept A:\n    c()\n    raise\n"

    found = {(each.operator, each.after) for each in mutants("f.py", source)}

    assert ("handler dropped", "raise") in found
    assert ("raise removed", "pass") in found


def test_a_change_is_named_by_its_function_and_applied_where_it_stands() -> None:
    found = {mutant.key: mutant.apply(SOURCE) for mutant in mutants("f.py", SOURCE)}

    key = "f.py::Counter.add: if number < 0 or number > LIMIT:  =>  if number <= 0 or number > LIMIT:"
    assert found[key] == SOURCE.replace("number < 0", "number <= 0")
    assert found["f.py::<module>: LIMIT = 3  =>  LIMIT = 4"] == SOURCE.replace("LIMIT = 3", "LIMIT = 4")
    assert not any("frozen" in name or "Add 7" in name or "LIMIT + 2" in name for name in found)


def test_the_draw_is_the_same_every_time_and_hardly_moves_with_the_file() -> None:
    file = next(file for file in core_files() if file.path.endswith("selection.py"))
    source = file.source()
    longer = f"{source}\n\nADDED = some_name\n"

    before = {mutant.key for mutant in drawn(mutants(file.path, source), source)}
    again = {mutant.key for mutant in drawn(mutants(file.path, source), source)}
    after = {mutant.key for mutant in drawn(mutants(file.path, longer), source)}

    assert len(before) == source.count("\n") // 14
    assert before == again == after


@pytest.fixture(scope="module")
def drawn_keys() -> set[str]:
    return {mutant.key for file in core_files() for mutant in file.drawn_mutants()}


def test_at_least_three_hundred_changes_of_files_and_tests_that_exist(drawn_keys: set[str]) -> None:
    files = core_files()

    assert len(drawn_keys) >= 300
    assert len({file.path for file in files}) == len(files) >= 26
    paths = [test.partition("::")[0] for file in files for test in file.tests if not test.startswith("-")]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_every_equivalent_change_is_still_there_and_they_are_few(drawn_keys: set[str]) -> None:
    named = equivalent_mutants()
    keys = [one.key for one in named]

    assert [key for key in keys if key not in drawn_keys] == []
    assert len(set(keys)) == len(keys) <= 0.12 * len(drawn_keys)
    assert all(one.reason.endswith(".") for one in named)


def test_a_result_is_found_until_the_source_or_the_tests_change(tmp_path: Path) -> None:
    mutant = mutants("f.py", SOURCE)[0]
    digest = digest_of(mutant, SOURCE, "tests")
    result = MutantResult(digest, mutant.key, is_killed=True, noticed_by="a test", wall_s=1.5)
    ResultFile(tmp_path / "results").add(result)

    found = ResultFile(tmp_path / "results")

    assert found.get(digest) == result
    assert found.get(digest_of(mutant, SOURCE + "\n", "tests")) is None
    assert found.get(digest_of(mutant, SOURCE, "other tests")) is None


@pytest.mark.slow
def test_a_sample_is_noticed_and_a_second_run_goes_on_from_the_first(tmp_path: Path) -> None:
    arguments = [
        "device/backoff",
        "evaluation/per_user",
        "--limit",
        "2",
        "--results",
        str(tmp_path / "results"),
    ]

    runs = [
        subprocess.run(
            [sys.executable, "-m", "tests.mutants", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for _ in range(2)
    ]

    assert [run.returncode for run in runs] == [0, 0], runs[0].stdout + runs[0].stderr
    figures = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    assert figures == [{"mutants": 4, "killed": 4, "equivalent": 0}] * 2
    assert [run.stdout.count("its tests take") for run in runs] == [2, 0]

"""Runs tests against changed files: in a copy of the tree, each run in a process forked from a warm one.

The libraries are imported once, and a run is forked from there, so that it takes as long as its tests and not
the seconds that JAX takes to come up. The working tree is only read.

A run that does not end counts as noticed. Its limits are several times what the unchanged file took in the
same invocation, and much more than that in seconds. The first limit counts the CPU seconds of the run itself,
which do not depend on how busy the machine is; the second is for a run that waits for ever.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never, Self

import pytest
from tests.mutants.core_files import ROOT, CoreFile
from tests.mutants.operators import Mutant

#: Where the tree has its packages.
_PARTS: Final = ("server", "client_sim", "models", "compression", "load_tests")
_LIBRARIES: Final = (
    "aiohttp.web",
    "aiosqlite",
    "alembic.command",
    "cachetools",
    "cryptography.hazmat.primitives.ciphers.aead",
    "flax.nnx",
    "jax",
    "jax.numpy",
    "jwt",
    "msgpack",
    "msgspec",
    "numpy",
    "obstore",
    "optax",
    "prometheus_client",
    "regex",
    "rich.console",
    "safetensors.numpy",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "typer",
    "uvloop",
    "wordfreq",
    "zstandard",
)
_MIN_CPU_S: Final = 10.0
_TIMES_OF_CPU: Final = 5.0
_MIN_WALL_S: Final = 90.0
_TIMES_OF_WALL: Final = 8.0
#: A change may fill a list for ever.
_MAX_MEMORY_BYTES: Final = 6 * 2**30


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run of tests ended."""

    #: Whether all tests passed: nobody noticed the change.
    has_passed: bool
    #: The first test that failed, or how the run ended without one.
    noticed_by: str
    wall_s: float
    cpu_s: float


class Workshop:
    """A copy of the tree, and a warm process that runs tests in it. A context manager; in the main thread.

    Args:
        root: The tree to copy.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._folder = Path()
        #: The copy.
        self.tree = Path()

    def __enter__(self) -> Self:
        """Copy the tree and import the libraries."""
        self._folder = Path(tempfile.mkdtemp(prefix="keyflock-mutants-"))
        self._folder.chmod(0o711)  # a PostgreSQL that a test starts runs as another user
        self.tree = self._folder / "tree"
        _copy(self._root, self.tree)
        _set_environment(self._folder, self.tree)
        for library in _LIBRARIES:
            importlib.import_module(library)
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the copy."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def run_unchanged(self, file: CoreFile) -> RunResult:
        """Run a file's tests on the file as it is, twice: the second run finds everything compiled.

        Raises:
            RuntimeError: A test failed, so that it would fail for any change.
        """
        for _ in range(2):
            result = self._run(file.tests, cpu_limit_s=600.0, wall_limit_s=1_800.0, may_write_bytecode=True)
            if not result.has_passed:
                raise RuntimeError(f"{file.path}: without any change, {result.noticed_by} failed.")
        for bytecode in (self.tree / file.path).parent.glob(f"__pycache__/{Path(file.path).stem}.*"):
            bytecode.unlink()
        return result

    def run_changed(self, mutant: Mutant, tests: Sequence[str], unchanged: RunResult) -> RunResult:
        """Run tests on a changed file; the copy is as it was afterwards."""
        path = self.tree / mutant.path
        source = path.read_text(encoding="utf-8")
        path.write_text(mutant.apply(source), encoding="utf-8")
        try:
            return self._run(
                tests,
                cpu_limit_s=_MIN_CPU_S + _TIMES_OF_CPU * unchanged.cpu_s,
                wall_limit_s=_MIN_WALL_S + _TIMES_OF_WALL * unchanged.wall_s,
                may_write_bytecode=False,
            )
        finally:
            path.write_text(source, encoding="utf-8")

    def _run(
        self, tests: Sequence[str], *, cpu_limit_s: float, wall_limit_s: float, may_write_bytecode: bool
    ) -> RunResult:
        began_s = time.monotonic()
        reader, writer = os.pipe()
        log = self._folder / "log"
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _run_tests(self.tree, tests, writer, log, cpu_limit_s, may_write_bytecode=may_write_bytecode)
        os.close(writer)
        status, usage = _wait(pid, began_s + wall_limit_s)
        with open(reader, encoding="utf-8") as pipe:  # noqa: PTH123 - a file descriptor
            answer = pipe.read() if status is not None else ""
        failed = json.loads(answer)["failed"] if answer else ""
        match status:
            case None:
                noticed_by = "a run that waits for ever"
            case 0:
                noticed_by = ""
            case _ if os.WIFSIGNALED(status):
                noticed_by = f"signal {os.WTERMSIG(status)}"
            case _:
                noticed_by = failed or f"pytest's exit status {os.WEXITSTATUS(status)}"
        cpu_s = usage.ru_utime + usage.ru_stime if usage is not None else cpu_limit_s
        return RunResult(status == 0, noticed_by, time.monotonic() - began_s, cpu_s)


class FirstFailure:
    """A pytest plugin that keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first failure, of a fixture too."""
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the first file that could not be imported."""
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (import)"


def _run_tests(
    tree: Path, tests: Sequence[str], writer: int, log: Path, cpu_limit_s: float, *, may_write_bytecode: bool
) -> Never:
    """Run pytest in this process, which was forked for it, and end the process."""
    status = 70
    try:
        os.setsid()
        with log.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 0)
        limit_s = int(cpu_limit_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(tree)
        sys.dont_write_bytecode = not may_write_bytecode
        sys.path[:] = [*_paths(tree), *(path for path in sys.path if not _is_of_a_tree(path))]
        for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        plugin = FirstFailure()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
        status = int(pytest.main([*options, *tests], plugins=[plugin]))
        os.write(writer, json.dumps({"failed": plugin.name}).encode())
    finally:
        os._exit(status)


def _wait(pid: int, until_s: float) -> tuple[int | None, resource.struct_rusage | None]:
    """Wait until a process ends, and kill what it started; None when it had to be killed."""
    pause_s, ended = 0.01, 0
    try:
        while not ended and time.monotonic() <= until_s:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if not ended:
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.2, 0.2)
    finally:  # also when this process is asked to end
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        if not ended:
            os.waitpid(pid, 0)
    return (status, usage) if ended else (None, None)


def _copy(root: Path, tree: Path) -> None:
    """Copy what Git knows of the tree, and what it does not ignore."""
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    finished = subprocess.run(listed, capture_output=True, text=True, check=True)
    for name in filter(None, finished.stdout.split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)


def _set_environment(folder: Path, tree: Path) -> None:
    """Keep temporary files and compiled programs below one folder, for this process and what it starts."""
    for name, value in {
        "TMPDIR": folder / "tmp",
        "JAX_COMPILATION_CACHE_DIR": folder / "xla",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": 0,
        "PYTHONPATH": os.pathsep.join(_paths(tree)),
    }.items():
        os.environ[name] = str(value)
    (folder / "tmp").mkdir()
    tempfile.tempdir = None


def _paths(tree: Path) -> Iterator[str]:
    yield str(tree)
    yield from (str(tree / part) for part in _PARTS)


def _is_of_a_tree(path: str) -> bool:
    """Return whether a path for imports holds this project: the working tree, or where it is installed."""
    folder = Path(path or ".")
    return (folder / "tests" / "conftest.py").exists() or any(folder.glob("keyflock_*/__init__.py"))

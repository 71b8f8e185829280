"""Makes ``sample_jobs`` importable here and in the workers."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def sample_jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", here if not inherited else f"{here}{os.pathsep}{inherited}")
    return importlib.import_module("sample_jobs")


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiling is most of what a tiny model costs, so runs share it."""
    return tmp_path_factory.mktemp("xla")

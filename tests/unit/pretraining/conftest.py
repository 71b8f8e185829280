"""Compiled programs are shared by all runs of this folder: compiling is most of what a tiny model costs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")

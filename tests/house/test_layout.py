"""The house keeps its shape: hallways are not packages, and the standard library stays itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("server", "client_sim", "models", "compression", "tests", "load_tests")
PACKAGES = (
    "server/keyflock_server",
    "client_sim/keyflock_client_sim",
    "models/keyflock_models",
    "compression/keyflock_compression",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_folder_is_a_hallway_and_not_a_package(part: str) -> None:
    assert (ROOT / part).is_dir()
    assert not (ROOT / part / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_has_a_page_beside_it(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package).parent.joinpath("README.md").is_file()


def test_tests_are_modules_by_path_and_never_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma", "zlib"])
def test_the_standard_library_imports_from_the_projects_root(module: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert finished.returncode == 0, finished.stderr

from dataclasses import replace
from pathlib import Path

import pytest

from keyflock_client_sim.demo.folder import demo_folder
from keyflock_client_sim.training_setup.options import DemoError, DemoOptions


def test_a_temporary_folder_is_gone_after_the_block() -> None:
    with demo_folder(None) as folder:
        folder.claim(DemoOptions())
        assert folder.path.is_dir()
        assert folder.is_temporary

    assert not folder.path.exists()


def test_the_same_demo_may_go_on_in_a_kept_folder(tmp_path: Path) -> None:
    with demo_folder(tmp_path / "kept") as folder:
        folder.claim(DemoOptions(seed=3, rounds=5))

    with demo_folder(tmp_path / "kept") as again:
        again.claim(DemoOptions(seed=3, rounds=7))

    assert again.path == folder.path


@pytest.mark.parametrize("other", [{"seed": 4}, {"size": "small"}, {"data": "x.jsonl"}, {"devices": 99}])
def test_another_demo_in_a_kept_folder_is_refused_by_name(tmp_path: Path, other: dict[str, object]) -> None:
    with demo_folder(tmp_path) as folder:
        folder.claim(DemoOptions(seed=3))

        with pytest.raises(DemoError, match=f"--{next(iter(other))}"):
            folder.claim(replace(DemoOptions(seed=3), **other))  # type: ignore[arg-type]  # by name


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")

    with demo_folder(tmp_path) as folder, pytest.raises(DemoError, match="holds other things"):
        folder.claim(DemoOptions())

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_whose_note_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("[]")

    with demo_folder(tmp_path) as folder, pytest.raises(DemoError, match="cannot be read"):
        folder.claim(DemoOptions())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DemoError, match="cannot be made"), demo_folder(tmp_path / "file" / "folder"):
        pytest.fail("there is no such folder")


@pytest.mark.parametrize(
    ("options", "word"),
    [({"rounds": 0}, "--rounds"), ({"goal": 3}, "--goal"), ({"goal": 20, "devices": 39}, "--devices")],
)
def test_a_demo_that_cannot_end_well_is_refused(options: dict[str, int], word: str) -> None:
    with pytest.raises(DemoError, match=word):
        DemoOptions(**options)  # type: ignore[arg-type]  # by name

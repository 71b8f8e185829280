"""``keyflock-sim`` from the outside: small runs, and failures of one line each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyflock_client_sim.cli import main


def inherited() -> dict[str, str]:
    """Return where the product is found by its path, and where compiled programs are shared."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PYTHONPATH", "JAX_"))}


def keyflock_sim(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from keyflock_client_sim.cli import main; main()", *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(cache),
            "XDG_CACHE_HOME": str(cache),
            "COLUMNS": "120",
            **inherited(),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this file's own, in which later runs find compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    lines = (
        json.dumps({"user": f"u{number}", "messages": ["you and the people of it say so"] * 30})
        for number in range(30)
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_pretrained_checkpoint_is_measured_beside_the_baselines(
    chat: Path, tmp_path: Path, cache: Path
) -> None:
    model = tmp_path / "model.safetensors"

    trained = keyflock_sim(
        "pretrain", "--data", str(chat), "--out", str(model), "--size", "tiny", "--epochs", "2",
        cache=cache,
    )  # fmt: skip
    measured = keyflock_sim(
        "evaluate", "--model", str(model), "--data", str(chat), "--users", "5", "--workers", "1", "--json",
        cache=cache,
    )  # fmt: skip

    assert trained.returncode == 0, trained.stderr
    assert "1,284 parameters, trained on chat.jsonl" in trained.stderr
    assert not model.with_name("model.safetensors.state").exists()
    assert measured.returncode == 0, measured.stderr
    report = json.loads(measured.stdout)
    assert list(report["models"]) == ["model", "unigram", "trigram"]
    assert report["users"] == 5
    assert report["models"]["trigram"]["recall_at_1"]["micro"] > 0.5


def test_a_drift_simulation_ends_with_one_line_of_figures_and_a_picture(
    chat: Path, tmp_path: Path, cache: Path
) -> None:
    picture = tmp_path / "drift.png"

    done = keyflock_sim(
        "drift", "--data", str(chat), "--by", "synthetic", "--size", "tiny", "--versions", "2",
        "--users", "2", "--min-words", "100", "--refit-every", "2", "--picture", str(picture), "--json",
        cache=cache,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["users"], figures["changes"], figures["refit_every"]) == (2, 2, 2)
    assert list(figures["policies"]) == ["drop", "keep", "map", "refit", "map and refit"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "people" not in done.stderr


def test_a_comparison_of_codecs_ends_with_one_line_of_figures_and_goes_on_from_what_is_kept(
    chat: Path, tmp_path: Path, cache: Path
) -> None:
    picture = tmp_path / "compression.png"
    arguments = (
        "compression", "--data", str(chat), "--size", "tiny", "--arms", "default, topk keep_ratio=0.05",
        "--rounds", "1", "--goal", "4", "--seeds", "2", "--picture", str(picture), "--json",
    )  # fmt: skip

    first = keyflock_sim(*arguments, cache=cache)
    second = keyflock_sim(*arguments, cache=cache)

    assert first.returncode == 0, first.stderr
    figures = json.loads(first.stdout)
    assert (figures["seeds"], figures["rounds"]) == ([0, 1], [0, 1])
    assert list(figures["arms"]) == ["float32", "default", "topk keep_ratio=0.05"]
    assert figures["arms"]["default"]["bytes_per_report"] < figures["arms"]["float32"]["bytes_per_report"]
    assert "difference_at_1" in figures["arms"]["default"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "people" not in first.stderr
    assert second.stdout == first.stdout
    assert second.stderr.count("(kept)") == 6


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["pretrain", "--size", "huge", "--out", "x"], 2, "no model size 'huge'; there are full, medium"),
        (["pretrain"], 2, "Missing option '--out'"),
        (
            ["pretrain", "--language", "ja", "--out", "x"],
            2,
            "--language: the language 'ja' has no vocabulary",
        ),
        (["pretrain", "--language", "ko", "--out", "x"], 2, "parts of words"),
        (["pretrain", "--language", "zh", "--out", "x"], 2, "without spaces between words"),
        (["pretrain", "--language", "english", "--out", "x"], 2, "no public word list"),
        (
            ["pretrain", "--language", "de_DE.UTF-8", "--out", "x"],
            2,
            "'de' may be meant; supported are ar, bg",
        ),
        (["pretrain", "--language", "", "--out", "x"], 2, "the language is empty"),
        (
            ["pretrain", "--data", "missing.jsonl", "--out", "x"],
            5,
            "missing.jsonl: No such file or directory",
        ),
        (["evaluate", "--model", "missing"], 5, "missing: No such file or directory"),
        (["evaluate", "--model", __file__], 5, "test_sim_command_line.py: not a safetensors document"),
        (
            ["compression", "--arms", "default, zip"],
            2,
            "--arms: ' zip': codec is 'zip'; one of deadzone_rows",
        ),
        (["compression", "--goal", "3"], 2, "Invalid value for '--goal'"),
        (["compression", "--data", "missing.jsonl"], 5, "missing.jsonl: No such file or directory"),
        (["compression", "--size", "huge"], 5, "no model size 'huge'; there are full, medium"),
        (["dance"], 2, "No such command 'dance'"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["keyflock-sim", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    printed = capsys.readouterr()
    assert ended.value.code == code
    assert printed.out == ""
    assert complaint in printed.err
    assert printed.err.startswith("keyflock-sim: ")
    assert printed.err.count("\n") == 1


def test_help_does_not_wait_for_jax(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from keyflock_client_sim.cli import application\n"
        "sys.exit('jax' in sys.modules or 'keyflock_models' in sys.modules)\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)

    assert ended.returncode == 0

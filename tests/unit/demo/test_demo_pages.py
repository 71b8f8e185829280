"""What a newcomer reads: the table, the verdict, the picture, and the JSON line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from keyflock_client_sim.demo.learning_curve import save_learning_curve
from keyflock_client_sim.demo.result import DemoResult, Recall, RoundRow
from keyflock_client_sim.demo.table import HEADER, byte_size, round_line, start_line
from keyflock_client_sim.demo.verdict import print_verdict
from keyflock_models.evaluation.paired_bootstrap import Comparison

FIRST = RoundRow(
    sequence=1,
    version=1,
    reports=24,
    drop_outs=3,
    recall=Recall(0.12, 0.2),
    bytes_per_report=25_000,
    seconds=4.2,
)
SECOND = replace(FIRST, sequence=2, version=2, recall=None)
RESULT = DemoResult(
    rounds=(FIRST, SECOND),
    reports_acked=48,
    reports_counted=48,
    start=Recall(0.10, 0.18),
    start_on_sample=Recall(0.10, 0.18),
    end=Recall(0.13, 0.21),
    unigram=Recall(0.04, 0.09),
    trigram=Recall(0.11, 0.19),
    gain_at_1=Comparison(0.03, 0.02, 0.04, 0.95, 50),
    gain_at_3=Comparison(0.03, 0.01, 0.05, 0.95, 50),
    bytes_per_report=25_000.0,
    parameters=1_000_000,
    cohort_nmse=0.12,
    devices=200,
    held_out_devices=50,
    pretrain_s=58.0,
    seconds=200.0,
)


def said_of(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> str:
    print_verdict(result, Console(width=140))
    return capsys.readouterr().out


def test_a_row_stands_under_its_header() -> None:
    assert HEADER.split() == [
        *("round", "reports", "drop-outs", "recall@1", "recall@3", "up/report", "of", "fp32", "seconds")
    ]
    assert round_line(FIRST, 1_000_000).split() == [
        *("1", "24", "3", "12.00", "%", "20.00", "%", "25.0", "kB", "0.62", "%", "4.2")
    ]
    assert {len(HEADER), len(round_line(FIRST, 1_000_000)), len(start_line(Recall(0.1, 0.2)))} == {
        len(HEADER)
    }


def test_a_round_that_was_not_evaluated_shows_a_dash() -> None:
    assert round_line(SECOND, 1_000_000).split()[3:5] == ["-", "-"]


def test_bytes_are_shown_in_the_unit_that_fits() -> None:
    assert byte_size(999) == "1.0 kB"
    assert byte_size(5_689_000) == "5.69 MB"


def test_the_verdict_names_baselines_gain_price_and_books(capsys: pytest.CaptureFixture[str]) -> None:
    output = said_of(RESULT, capsys)

    assert "+3.00 points [+2.00, +4.00]" in output
    assert "Kneser-Ney trigram" in output
    assert "0.200 bits a parameter" in output
    assert "48 reports acknowledged, 48 counted" in output
    assert "The phones learned." in output


def test_a_gain_that_may_be_chance_is_not_called_learning(capsys: pytest.CaptureFixture[str]) -> None:
    output = said_of(replace(RESULT, gain_at_1=Comparison(0.01, -0.01, 0.03, 0.95, 50)), capsys)

    assert "The phones learned." not in output
    assert "not clear of zero" in output


@pytest.mark.fault("F14")
@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.001, 0.02, "The phones learned."),
        (-0.02, -0.001, "The phones made the model worse: recall@1 fell by 1.05 points"),
        (0.0, 0.02, "not clear of zero"),
        (-0.02, 0.0, "not clear of zero"),
    ],
)
def test_a_loss_is_called_a_loss(
    capsys: pytest.CaptureFixture[str], low: float, high: float, sentence: str
) -> None:
    gain = Comparison((low + high) / 2, low, high, 0.95, 50)

    output = said_of(replace(RESULT, gain_at_1=gain), capsys)

    sentences = ("The phones learned.", "The phones made the model worse", "not clear of zero")
    assert sentence in output
    assert sum(one in output for one in sentences) == 1


def test_books_that_differ_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output = said_of(replace(RESULT, reports_counted=47), capsys)

    assert "they differ" in output


def test_the_summary_has_every_promised_key_and_is_json() -> None:
    summary = json.loads(json.dumps(RESULT.summary()))

    assert summary["rounds"] == 2
    assert summary["reports_acked"] == summary["reports_counted"] == 48
    assert summary["start_recall_at_1"] == 0.10
    assert summary["recall_at_3"] == 0.21
    assert summary["unigram_recall_at_1"] == 0.04
    assert summary["trigram_recall_at_1"] == 0.11
    assert summary["bytes_per_report"] == 25_000.0
    assert summary["fp32_bytes"] == 4_000_000
    assert summary["bits_per_parameter"] == pytest.approx(0.2)
    assert summary["curve"] == [
        {"version": 0, "at_1": 0.10, "at_3": 0.18},
        {"version": 1, "at_1": 0.12, "at_3": 0.2},
    ]


@pytest.mark.filterwarnings("default")
def test_the_learning_curve_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"

    save_learning_curve(RESULT, path)

    assert path.read_bytes().startswith(b"\x89PNG")

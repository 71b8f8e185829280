"""Small runs of the load tests against real server processes: whatever the load, the books agree.

What is asserted does not depend on the machine: a slow one answers fewer phones, and loses no report either.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from keyflock_load_tests.bad_phones import ACTS
from keyflock_load_tests.harness import HERD, run
from keyflock_load_tests.measurement import BAD_PHONE
from keyflock_load_tests.result import LoadReport
from keyflock_load_tests.scenario import Scenario, SlowPhones, StreamPlan, TaskPlan
from keyflock_load_tests.scenarios import SCENARIOS
from keyflock_load_tests.visits import BESIDE, SLOW

#: Long after the last arrival: a run ends when its visits do.
DRAIN_S = 240.0
# Fleets are as large as the arrivals where every phone is to come: one that is busy does not come again.
TASK = TaskPlan(model_size="tiny", goal=12, minimum=4, deadline_s=5.0)


def small(name: str, *, rate_per_s: float, duration_s: float, devices: int) -> Scenario:
    scenario = SCENARIOS[name].scaled(rate_per_s=rate_per_s, duration_s=duration_s, devices=devices)
    phones = replace(scenario.phones, mean_training_s=0.1, hostile_hold_s=1.0)
    quick = {**scenario.server.environment, "KEYFLOCK_ACK_WAIT_S": "1", "KEYFLOCK_HEADER_TIMEOUT_S": "1"}
    server = replace(scenario.server, environment=quick)
    return replace(scenario, phones=phones, task=TASK, server=server, drain_s=DRAIN_S)


def correct(report: LoadReport) -> LoadReport:
    """The report of a run in which something was acknowledged, and nothing was lost, doubled or broken."""
    assert report.violations == (), report.violations
    assert report.correctness.reports_acked > 0
    assert report.correctness.peak_rss_mib > 0.0
    return report


@pytest.mark.slow
def test_saturating_reports_are_each_counted_once(tmp_path: Path) -> None:
    scenario = small("report_ingest", rate_per_s=40.0, duration_s=3.0, devices=60)
    everybody = replace(TASK, over_selection=10.0, goal=20)
    stream = StreamPlan(connections=16, drain_s=DRAIN_S)

    report = correct(run(replace(scenario, task=everybody, stream=stream), tmp_path / "servers"))

    assert report.check_ins["assignment"] > 0
    assert report.calls["report"].count >= report.correctness.reports_acked


@pytest.mark.slow
def test_bad_phones_are_refused_each_for_its_reason_and_no_report_suffers(tmp_path: Path) -> None:
    scenario = small("hostile_mix", rate_per_s=25.0, duration_s=4.0, devices=160)
    many_bad = replace(scenario, phones=replace(scenario.phones, hostile_share=0.5))

    report = correct(run(many_bad, tmp_path / "servers"))

    assert report.correctness.hostile_surprises == {}
    assert {name + BAD_PHONE for name in ACTS} <= set(report.calls)
    # Whether a bad phone gets work to send back is the server's choice; all else must have been refused once.
    refused = {name for name in ACTS if report.calls[name + BAD_PHONE].outcomes.get("ok")}
    assert set(ACTS) - {"not_a_number", "replay"} <= refused


@pytest.mark.slow
def test_a_killed_server_comes_back_to_everybody_at_once_and_the_books_agree(tmp_path: Path) -> None:
    scenario = small("thundering_herd", rate_per_s=12.0, duration_s=5.0, devices=80)

    report = correct(run(scenario, tmp_path / "servers"))

    assert [mark.text for mark in report.marks] == ["killed", "back"]
    # Half of the fleet visits, and the other half is the herd.
    assert sum(report.calls[f"check_in{HERD}"].outcomes.values()) == 40


@pytest.mark.slow
def test_uploads_that_trickle_are_counted_like_all_others(tmp_path: Path) -> None:
    scenario = small("slow_uploads", rate_per_s=10.0, duration_s=5.0, devices=80)
    everybody = replace(TASK, over_selection=10.0, goal=200, deadline_s=600.0)
    # A delta of 600 bytes in pieces of 60.
    slow = SlowPhones(share=0.33, upload_bytes_per_s=300.0)

    report = correct(run(replace(scenario, task=everybody, slow_phones=slow), tmp_path / "servers"))

    assert {f"check_in{SLOW}", f"check_in{BESIDE}"} <= set(report.calls)
    assert report.calls[f"report{SLOW}"].p50_ms > 1_800.0

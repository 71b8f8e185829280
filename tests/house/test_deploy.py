"""Alert rules and the dashboard name what servers show, and every alert has its section: cause, then act."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.house.promql import complaints

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "keyflock.json").read_text(encoding="utf-8"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def queries() -> Iterator[tuple[str, str]]:
    """The dashboard's expressions, by the titles of their panels."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def sections() -> dict[str, str]:
    """The sections of the alerts in the operations page."""
    chapter = OPERATIONS.split("\n## Alerts\n")[1].split("\n## ")[0]
    title, *rest = re.split(r"\n### ", chapter)
    assert title
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in rest}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_names_series_and_labels_that_servers_show(alert: dict[str, Any]) -> None:
    assert complaints(alert["expr"]) == []


@pytest.mark.parametrize(("title", "expression"), list(queries()))
def test_a_panel_names_series_and_labels_that_servers_show(title: str, expression: str) -> None:
    assert complaints(expression.replace('job=~"$job"', 'job=~"keyflock"')) == [], title


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("keyflock_held_round > 0", "no series keyflock_held_round"),
        ("rate(keyflock_flush_reports[5m])", "no series keyflock_flush_reports"),
        ('keyflock_problems_total{kode="internal"}', "keyflock_problems_total has no label kode"),
        ('keyflock_rounds_total{phase=~"closed|lost"}', "keyflock_rounds_total: phase is never lost"),
        ('keyflock_rounds_total{phase!="open"}', "keyflock_rounds_total: phase is never open"),
        ("sum by (tasks) (keyflock_round_age_seconds)", "no label tasks"),
        ("keyflock_ready and on (le) keyflock_ready", "no label le"),
    ],
)
def test_a_name_that_no_server_shows_is_found(expression: str, complaint: str) -> None:
    assert complaints(expression) == [complaint]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    name = alert["alert"]

    assert re.fullmatch(r"Keyflock[A-Z][A-Za-z]+", name)
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert re.fullmatch(r"\d+[mh]", alert["for"])
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert list(sections()) == [alert["alert"] for alert in ALERTS]
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_a_section_says_the_severity_the_cause_and_what_to_do(alert: dict[str, Any]) -> None:
    text = sections()[alert["alert"]]

    assert text.strip().startswith(f"`{alert['labels']['severity']}`. ")
    assert text.index("* **Cause**: ") < text.index("* **Act**: ")


def test_a_series_that_the_operations_page_names_is_there() -> None:
    named = re.findall(r"`(keyflock_\w+(?:\{[^}`]*\})?)`", OPERATIONS)
    without_parts = [name for name in named if complaints(name) and complaints(f"{name}_count")]

    assert without_parts == []


def test_the_alerts_that_matter_most_have_unit_tests() -> None:
    tested = {one["alertname"] for test in TESTS["tests"] for one in test["alert_rule_test"]}

    assert {"KeyflockRoundHeld", "KeyflockNoNewVersion", "KeyflockStoreUnreachable"} <= tested


def test_the_dashboard_has_its_parts_and_shows_no_data_as_such() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]

    assert {"Overview", "Rounds", "Releases", "Phones", "Calls", "Ingest", "Process"} <= set(rows)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert {panel["fieldConfig"]["defaults"]["noValue"] for panel in panels} == {"no data"}
    assert all(panel["description"].endswith(".") for panel in panels)

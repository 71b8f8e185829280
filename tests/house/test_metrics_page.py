"""Every series that a server shows is declared, named by the rules, bounded, and on the page of metrics."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.house import metrics_page

from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.series import SERIES, process
from keyflock_server.telemetry.series.declaration import DeclaredSeries, IdKind, SeriesKind

#: How a name ends by what it counts: a unit of Prometheus' base units, or the plural of what is counted.
UNITS = (
    "_seconds",
    "_bytes",
    "_ratio",
    "_questions",
    "_reports",
    "_rounds",
    "_connections",
    "_tasks",
    "_readers",
    "_entries",
    "_peers",
    "_in_flight",
    "_fds",
)
#: Gauges that are no quantity: a yes or no, or a number of a version.
NO_QUANTITY = {
    "keyflock_released_version",
    "keyflock_release_gate_verdict",
    "keyflock_tls_certificate_files_stuck",
    "keyflock_tls_certificate_files_unusable",
    "keyflock_ready",
    "keyflock_is_leader",
    "keyflock_model_version",
}


def test_the_page_is_what_make_docs_writes() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page(), "run `make docs`"


def test_a_server_shows_each_declared_series_and_no_other() -> None:
    own = [series for series in SERIES if series not in process.OF_LIBRARY]

    assert sorted(series.name for series in Metrics().declared) == sorted(series.name for series in own)
    assert len({series.name for series in SERIES}) == len(SERIES)


def test_what_is_shown_is_what_was_declared() -> None:
    shown = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(Metrics().exposition().decode())
        if family.name.startswith("keyflock_")
    }

    assert shown == {
        series.name.removesuffix("_total"): (series.kind, series.doc) for series in Metrics().declared
    }


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_a_series_is_named_and_described_by_the_rules(series: DeclaredSeries) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", series.name)
    assert series.name.endswith("_total") == (series.kind is SeriesKind.COUNTER)
    if series.kind is SeriesKind.HISTOGRAM:
        assert series.name.endswith(UNITS)
        assert list(series.buckets) == sorted(set(series.buckets))
    elif series.kind is SeriesKind.GAUGE and series.name not in NO_QUANTITY:
        assert series.name.endswith(UNITS)
    assert series.doc.endswith(".")
    assert series.doc[0].isupper() or series.doc[0].isdigit()
    assert len(set(series.label_names)) == len(series.label_names)


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_every_label_has_a_closed_set_or_a_bound(series: DeclaredSeries) -> None:
    for label in series.labels:
        assert bool(label.values) != (isinstance(label.ids_of, IdKind) and label.max_ids > 0)
        assert len(set(label.values)) == len(label.values)
        assert all(re.fullmatch(r"[a-z0-9_.]+", value) for value in label.values)


def test_all_series_together_stay_within_what_a_prometheus_takes_from_one_target() -> None:
    lines = sum(series.max_series * (len(series.buckets) + 3 if series.buckets else 1) for series in SERIES)

    assert lines < 20_000

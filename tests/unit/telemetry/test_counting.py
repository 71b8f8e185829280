"""Series count under bounded labels, show zeros from the start, and forget what is gone."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keyflock_server.telemetry.counting import Counter, Gauge, Histogram
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.series.declaration import (
    IdKind,
    Label,
    closed,
    counter,
    gauge,
    histogram,
)

TASK = Label("task", ids_of=IdKind.TASK, max_ids=2)
POPULATION = Label("population", ids_of=IdKind.POPULATION, max_ids=2)


def shown(family: Counter | Gauge | Histogram) -> dict[tuple[str, ...], float]:
    """Return the samples by the suffix of their names and the values of their labels."""
    (metric,) = family.collect()
    return {
        (sample.name.removeprefix(metric.name), *sample.labels.values()): sample.value
        for sample in metric.samples
    }


def test_a_value_outside_the_closed_set_is_counted_as_other_whatever_it_is() -> None:
    verdicts = Counter(counter("verdicts_total", "Verdicts.", closed("verdict", ("good", "bad"))))

    verdicts.labels("good").inc()
    for number in range(1_000):
        verdicts.labels(f"invented-{number}").inc(2)

    assert shown(verdicts) == {
        ("_total", "good"): 1.0,
        ("_total", "bad"): 0.0,
        ("_total", "other"): 2_000.0,
    }


def test_the_first_event_of_a_closed_set_is_a_rise_from_zero() -> None:
    assert shown(Counter(counter("calls_total", "Calls."))) == {("_total",): 0.0}
    assert shown(Counter(counter("calls_total", "Calls.", closed("port", ("a", "b"))))) == {
        ("_total", "a"): 0.0,
        ("_total", "b"): 0.0,
    }


def test_a_state_that_nobody_has_set_is_not_shown_as_zero() -> None:
    assert shown(Gauge(gauge("level", "A level.", closed("port", ("a", "b"))))) == {}


def test_ids_beyond_the_bound_share_one_series_and_lose_no_event() -> None:
    failures = Counter(counter("failures_total", "Failures.", TASK))

    for task in ("a", "b", "c", "d", "a", "d"):
        failures.labels(task).inc()

    assert shown(failures) == {("_total", "a"): 2.0, ("_total", "b"): 1.0, ("_total", "other"): 3.0}


def test_what_is_gone_has_no_series_and_gives_its_place_to_another() -> None:
    failures = Counter(counter("failures_total", "Failures.", TASK))
    for task in ("a", "b", "c"):
        failures.labels(task).inc()

    failures.keep_only(IdKind.POPULATION, set())
    failures.keep_only(IdKind.TASK, {"b", "c"})
    failures.labels("c").inc()

    assert shown(failures) == {("_total", "b"): 1.0, ("_total", "c"): 1.0, ("_total", "other"): 1.0}


def test_a_gauge_that_is_asked_shows_what_there_is_and_the_worst_of_the_rest() -> None:
    ages = Gauge(gauge("age_seconds", "Age.", TASK))
    now = [(("a",), 1.0), (("b",), 2.0), (("c",), 9.0), (("d",), 3.0)]
    ages.read_from(lambda: now)
    before = shown(ages)
    del now[1:]

    assert before == {("", "a"): 1.0, ("", "b"): 2.0, ("", "other"): 9.0}
    assert shown(ages) == {("", "a"): 1.0}


def test_a_histogram_counts_each_observation_in_the_bucket_that_it_fits_in() -> None:
    sizes = Histogram(histogram("sizes_bytes", "Sizes.", (1, 2.5)))

    for size in (0.5, 1, 2, 3):
        sizes.observe(size)

    assert shown(sizes) == {
        ("_bucket", "1.0"): 2.0,
        ("_bucket", "2.5"): 3.0,
        ("_bucket", "+Inf"): 4.0,
        ("_count",): 4.0,
        ("_sum",): 6.5,
    }


def test_a_label_that_is_left_out_is_a_mistake_of_the_code() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        Counter(counter("failures_total", "Failures.", TASK, POPULATION)).labels("a")


def test_the_exposition_has_series_of_living_tasks_only() -> None:
    metrics, living = Metrics(), {"a", "b"}
    metrics.keep_only_living(IdKind.TASK, lambda: living)
    for task in ("a", "b"):
        metrics.task_failures.labels(task).inc()

    living.remove("a")
    text = metrics.exposition().decode()

    (failures,) = [
        family for family in text_string_to_metric_families(text) if family.name == "keyflock_task_failures"
    ]
    assert [sample.labels["task"] for sample in failures.samples] == ["b"]

"""Durations and bytes of calls reach Prometheus as one histogram and two counters."""

from prometheus_client.parser import text_string_to_metric_families

from keyflock_server.telemetry.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return the value of each series by its name and its bucket's upper bound."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.labels.get("call") == "report"
    }


def test_a_duration_on_a_bound_falls_into_the_bucket_that_ends_there() -> None:
    metrics = Metrics()
    totals = metrics.calls.of("report")
    for duration_s in (0.0004, 0.001, 0.0011, 31.0):
        totals.answered(duration_s, sent_bytes=100)
    totals.received(24_000)
    found = samples(metrics)
    assert found["keyflock_request_duration_seconds_bucket", "0.001"] == 2.0
    assert found["keyflock_request_duration_seconds_bucket", "0.0025"] == 3.0
    assert found["keyflock_request_duration_seconds_bucket", "30.0"] == 3.0
    assert found["keyflock_request_duration_seconds_bucket", "+Inf"] == 4.0
    assert found["keyflock_request_duration_seconds_count", ""] == 4.0
    assert found["keyflock_request_duration_seconds_sum", ""] == 0.0004 + 0.001 + 0.0011 + 31.0
    assert found["keyflock_sent_bytes_total", ""] == 400.0
    assert found["keyflock_received_bytes_total", ""] == 24_000.0


def test_two_servers_of_a_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.calls.of("report").answered(0.1, sent_bytes=1)
    assert samples(one)["keyflock_request_duration_seconds_count", ""] == 1.0
    assert set(samples(other).values()) == {0.0}

import pytest

from keyflock_load_tests.measurement import LOST_ON_PURPOSE, Measurements, Sample, quantiles


def sample(outcome: str = "ok", *, status: int = 200, latency_s: float = 0.1) -> Sample:
    return Sample("report", 1.0, 1.0, 1.0 + latency_s, outcome, status)


def test_quantiles_are_samples_and_not_interpolations() -> None:
    found = quantiles([float(value) for value in range(1, 1_001)], duration_s=10.0)

    assert (found.p50_ms, found.p99_ms, found.p999_ms, found.max_ms) == (500.0, 990.0, 999.0, 1_000.0)
    assert (found.count, found.per_s) == (1_000, 100.0)


def test_business_answers_are_no_errors_and_the_rest_are_counted_by_call_and_code() -> None:
    measurements = Measurements()
    measurements.samples += [
        sample(),
        sample("report_pending", status=503),
        sample("timeout", status=0),
        sample("internal", status=500),
    ]

    assert measurements.errors() == {"report timeout": 1, "report internal": 1}
    assert measurements.error_share() == pytest.approx(0.5)


def test_only_a_5xx_other_than_503_is_a_failure_of_the_server() -> None:
    measurements = Measurements()
    measurements.samples += [sample("overloaded", status=503), sample("http_502", status=502)]

    assert measurements.server_failures() == 1


def test_a_connection_cut_on_purpose_is_no_latency() -> None:
    measurements = Measurements()
    measurements.samples += [sample(LOST_ON_PURPOSE, latency_s=9.0), sample(latency_s=0.2)]

    assert measurements.quantiles(1.0)["report"].max_ms == pytest.approx(200.0)


def test_a_second_receipt_that_does_not_say_duplicate_is_remembered_as_a_double_count() -> None:
    measurements = Measurements()

    measurements.ack("a", is_duplicate=False)
    measurements.ack("a", is_duplicate=True)
    measurements.ack("b", is_duplicate=True)
    measurements.ack("a", is_duplicate=False)

    assert measurements.acked == {"a", "b"}
    assert measurements.acked_twice == {"a"}


def test_a_report_of_unknown_fate_is_unsettled_until_its_receipt_comes() -> None:
    measurements = Measurements()
    measurements.unsettled |= {"a", "b"}

    measurements.ack("a", is_duplicate=False)

    assert measurements.unsettled == {"b"}

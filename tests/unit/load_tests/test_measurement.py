import pytest

from keyflock_load_tests.measurement import BAD_PHONE, Measurements, Sample


def sample(outcome: str = "ok", *, status: int = 200, latency_s: float = 0.1) -> Sample:
    return Sample("report", 1.0, 1.0, 1.0 + latency_s, outcome, status)


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


def test_what_bad_phones_are_told_is_no_error_of_the_honest() -> None:
    measurements = Measurements()
    measurements.samples += [
        sample(),
        Sample("report" + BAD_PHONE, 1.0, 1.0, 1.1, "non_finite_delta", 422),
    ]

    assert measurements.errors() == {}
    assert measurements.error_share() == 0.0


def test_the_calls_of_a_stream_are_in_the_share_of_errors() -> None:
    measurements = Measurements(stream_calls=9)
    measurements.samples.append(sample())
    measurements.stream_errors["report http_500"] += 2

    assert measurements.error_share() == pytest.approx(0.2)

"""What a generator's record says of a closed loop."""

import pytest
from tests.unit.load_tests.traffic_records import traffic_record


@pytest.mark.parametrize("duration_s", [2.1, 2.5, 2.9, 3.1])
def test_a_rate_does_not_depend_on_whether_the_last_flush_came_before_the_end(duration_s: float) -> None:
    # 100 phones in step: each flush acknowledges all of them, a second after they came.
    due_s = [float(at_s) for at_s in range(4) for _ in range(100)]

    calls = traffic_record("report", due_s, [1.0] * 400, duration_s=duration_s)

    assert calls.per_s("report") == pytest.approx(100.0)


def test_only_good_answers_make_a_rate() -> None:
    calls = traffic_record("report", [0.0] * 4, [1.0] * 4, [200, 503, 0, -1], duration_s=2.0)

    assert calls.per_s("report") == pytest.approx(0.5)

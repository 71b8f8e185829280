"""When pre-training ends, and when workers meet."""

import pytest

from keyflock_client_sim.pretraining.schedule import PretrainingSchedule


def test_whichever_end_comes_first_counts() -> None:
    schedule = PretrainingSchedule(seconds=60.0, steps=100)

    assert schedule.ratio(50, 6.0) == 0.5
    assert schedule.ratio(10, 30.0) == 0.5
    assert schedule.ratio(101, 90.0) == 1.0


@pytest.mark.parametrize(
    ("step", "elapsed_s", "steps_per_s", "wanted"),
    [
        (0, 0.0, None, 10),  # a short first stretch tells the machine's speed
        (10, 2.0, 5.0, 50),
        (970, 50.0, 5.0, 30),  # no step past the last
        (60, 57.0, 5.0, 15),  # no time past the end
        (60, 59.9, 5.0, 1),  # but always a step
    ],
)
def test_a_stretch_ends_where_the_training_ends(
    step: int, elapsed_s: float, steps_per_s: float | None, wanted: int
) -> None:
    assert PretrainingSchedule(seconds=60.0, steps=1_000).next_steps(step, elapsed_s, steps_per_s) == wanted


def test_without_an_end_in_time_the_machines_speed_decides_nothing() -> None:
    schedule = PretrainingSchedule(seconds=None, steps=1_000)

    assert schedule.next_steps(100, 5.0, 0.1) == schedule.next_steps(100, 5_000.0, 1e6) == 50

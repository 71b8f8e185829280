"""The schedule decides when pre-training ends, how far it is, and how many steps a job takes."""

from dataclasses import dataclass
from typing import Final

#: The steps of the first job, which tells how fast this machine is.
FIRST_JOB_STEPS: Final = 10
#: The steps of every other job: a second or two at the default size.
JOB_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class PretrainingSchedule:
    """An end in time, in steps, or the one that comes first."""

    seconds: float | None
    steps: int | None

    def ratio(self, step: int, elapsed_s: float) -> float:
        """Return the share of the training that is done, 0 to 1."""
        in_time = 0.0 if self.seconds is None else elapsed_s / self.seconds
        in_steps = 0.0 if self.steps is None else step / self.steps
        return min(max(in_time, in_steps), 1.0)

    def next_steps(self, step: int, elapsed_s: float, steps_per_s: float | None) -> int:
        """Return the number of steps of the next job; at least one.

        Args:
            step: Steps taken.
            elapsed_s: Time spent.
            steps_per_s: The speed of the last job; None before there is one.

        Guarantees:
            Without an end in time the answer depends on the step alone, so a run can be repeated exactly.
        """
        wanted = FIRST_JOB_STEPS if step == 0 else JOB_STEPS
        if self.steps is not None:
            wanted = min(wanted, self.steps - step)
        if self.seconds is not None and steps_per_s is not None:
            wanted = min(wanted, int((self.seconds - elapsed_s) * steps_per_s))
        return max(wanted, 1)

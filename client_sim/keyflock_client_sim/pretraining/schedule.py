"""When pre-training ends, how far it is, and how many steps are taken at a time."""

from dataclasses import dataclass
from typing import Final

#: Steps of the first stretch, which tells how fast this machine is.
FIRST_STRETCH_STEPS: Final = 10
#: Steps of every other: a second or two at the default size.
STRETCH_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Schedule:
    """An end in time, in steps, or whichever comes first."""

    seconds: float | None
    steps: int | None

    def ratio(self, step: int, elapsed_s: float) -> float:
        """Share of the training that is behind, 0 to 1."""
        in_time = 0.0 if self.seconds is None else elapsed_s / self.seconds
        in_steps = 0.0 if self.steps is None else step / self.steps
        return min(max(in_time, in_steps), 1.0)

    def next_stretch(self, step: int, elapsed_s: float, steps_per_s: float | None) -> int:
        """Steps to take before looking up again; at least one.

        Args:
            step: Steps taken.
            elapsed_s: Time spent.
            steps_per_s: Of the last stretch; None before there is one.

        Guarantees:
            Without an end in time the answer depends on the step alone, so a run can be repeated exactly.
        """
        wanted = FIRST_STRETCH_STEPS if step == 0 else STRETCH_STEPS
        if self.steps is not None:
            wanted = min(wanted, self.steps - step)
        if self.seconds is not None and steps_per_s is not None:
            wanted = min(wanted, int((self.seconds - elapsed_s) * steps_per_s))
        return max(wanted, 1)

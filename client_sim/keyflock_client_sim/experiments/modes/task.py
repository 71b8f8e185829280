"""The two tasks that are compared differ only in how reports become versions."""

from collections.abc import Mapping
from typing import Final

from keyflock_client_sim.experiments.modes.options import ASYNC, SYNC, ModesOptions
from keyflock_client_sim.training_setup.task import POPULATION

TASK: Final = "modes"
#: A phone without work asks again after so long or a little longer: rarely enough to cost little, often
#: enough that a free place is taken within seconds.
RETURN_S: Final = 120.0
#: A round's cohort is selected within this time; the default is a quarter of the deadline.
SELECTION_S: Final = 30.0

_TEMPLATE: Final = """\
[task]
name = "{task}"
population = "{population}"

[round]
{mode}

[eligibility]
min_examples = 8

[pacing]
min_s = {return_s}
max_s = {most_s}

[training]
learning_rate = 0.6
gradient_clip_norm = 1.0
batch_size = 16
sequence_length = 20
max_examples = 256
candidates = 1000

[optimizer]
name = "fedadam"
learning_rate = {rate}
eps = 1e-4
"""


def mode_tables(options: ModesOptions) -> Mapping[str, str]:
    """Return the settings of ``[round]`` that differ, by mode."""
    return {
        SYNC: (
            f'mode = "sync"\ngoal = {options.goal}\nover_selection = {options.over_selection}\n'
            f"deadline_s = {options.sync_deadline_s}\nselection_s = {SELECTION_S}"
        ),
        ASYNC: (
            f'mode = "async"\ngoal = {options.buffer}\nconcurrency = {options.concurrency}\n'
            f"max_staleness = {options.max_staleness}\ndeadline_s = {options.async_deadline_s}"
        ),
    }


def task_toml(options: ModesOptions, mode: str, rate: float) -> str:
    """Return the task of a mode with this server learning rate."""
    return _TEMPLATE.format(
        task=TASK,
        population=POPULATION,
        mode=mode_tables(options)[mode],
        return_s=RETURN_S,
        most_s=3 * RETURN_S,
        rate=rate,
    )

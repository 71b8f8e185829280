"""The demo's task, as an operator would write it."""

from typing import Final

POPULATION: Final = "en-demo"
#: A phone that found no work asks again after about so long; a real one waits hours.
RETURN_S: Final = 1.0
DEADLINE_S: Final = 60.0


def task_toml(name: str, *, goal: int, rounds: int) -> str:
    """The task that trains for ``rounds`` rounds of ``goal`` reports.

    The rates suit a model that has seen public text: small server steps, and an eps that lets rare words
    move.
    """
    return f"""\
[task]
name = "{name}"
population = "{POPULATION}"
kind = "train"

[round]
goal = {goal}
deadline_s = {DEADLINE_S}
selection_s = {2 * RETURN_S}
max_rounds = {rounds}

[eligibility]
min_examples = 8

[pacing]
min_s = {RETURN_S}
max_s = {3 * RETURN_S}

[training]
learning_rate = 0.316
epochs = 1
batch_size = 16
sequence_length = 20
max_examples = 256

[optimizer]
name = "fedadam"
learning_rate = 0.003
eps = 1e-5
"""

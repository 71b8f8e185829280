"""What an operator may change of a task that runs: how many reports its rounds need, and how long they wait.

These decide when a round ends, not what is computed of it, so versions before and after are of one task. A
round keeps the spec with which it opened: its phones were told its deadline, and its slots are counted.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from keyflock_server.rounds.task import RoundPolicy, TaskSpec
from keyflock_server.rounds.task_validation import TaskError, validated

#: The fields of ``[round]`` that may be changed while the task runs.
CHANGEABLE: Final = ("goal", "minimum", "over_selection", "deadline_s")


def with_changes(spec: TaskSpec, changes: Mapping[str, Any]) -> TaskSpec:
    """Return the task with other values in ``[round]``, checked as a whole task.

    Args:
        spec: The task as it is.
        changes: New values by the fields' names; UNSET leaves a field as it is, and None goes back to the
            default.
    Raises:
        TaskError: the task cannot be run with these values.
    """
    given = {name: value for name, value in changes.items() if value is not UNSET}
    others = {name: value for name, value in msgspec.to_builtins(spec.round).items() if name not in given}
    try:
        policy = msgspec.convert(
            others | {name: value for name, value in given.items() if value is not None}, RoundPolicy
        )
    except msgspec.ValidationError as error:
        raise TaskError(f"round: {error}.") from None
    return validated(msgspec.structs.replace(spec, round=policy))

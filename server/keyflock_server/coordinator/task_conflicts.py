"""A new task must not conflict with the unfinished tasks of its population."""

from collections.abc import Iterable

from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.numbered_names import base_name
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task import TaskSpec


def check_conflicts(spec: TaskSpec, tasks: Iterable[TaskState]) -> None:
    """Raise ApiError ``conflict`` for a task that disagrees with another one.

    Two tasks that personalise one population would each forget the other's candidates. Two that compare the
    same versions would count one device twice. Several tasks step one model, and must agree on what keyboards
    serve of it.
    """
    for state in tasks:
        # A task of the same name is over, though this process may not know it yet.
        is_over = state.status.is_over or base_name(state.task) == base_name(spec.name)
        if is_over or state.spec.population != spec.population:
            continue
        if spec.kind is not state.spec.kind:
            continue
        is_repeated = spec.kind is not TaskKind.TRAIN and _compared(spec) == _compared(state.spec)
        if is_repeated:
            detail = (
                f"Population {spec.population!r} has the task {state.task!r} of this kind, which asks phones "
                f"the same and is {state.status}; cancel it first, or wait for its last round."
            )
            raise ApiError(ProblemCode.CONFLICT, detail)
        decays = state.spec.release.ema_decay, spec.release.ema_decay
        if decays[0] != decays[1]:
            detail = (
                f"Task {state.task!r} of population {spec.population!r} has release.ema_decay "
                f"{decays[0]:g}, this one {decays[1]:g}: keyboards serve one of them. "
                "Give both the same, or cancel the other first."
            )
            raise ApiError(ProblemCode.CONFLICT, detail)


def _compared(spec: TaskSpec) -> tuple[object, object]:
    """Return the versions that a task compares; the same for all tasks of another kind."""
    return spec.comparison.candidate, spec.comparison.baseline

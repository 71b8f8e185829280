"""What keeps a new task from living beside those of its population that are not over."""

from collections.abc import Iterable

from keyflock_server.coordinator.desk import Desk
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.task import TaskSpec, TaskStatus


def check_conflicts(spec: TaskSpec, desks: Iterable[Desk]) -> None:
    """Raise Refused ``conflict`` for a task that disagrees with another one.

    Two tasks that personalise one population would each forget the other's candidates. Several tasks step one
    model, and must agree on what keyboards serve of it.
    """
    for desk in desks:
        is_live = desk.status in {TaskStatus.ACTIVE, TaskStatus.PAUSED}
        if not is_live or desk.task == spec.name or desk.spec.population != spec.population:
            continue
        if spec.kind is desk.spec.kind is TaskKind.PERSONALIZE:
            detail = (
                f"Population {spec.population!r} has the task {desk.task!r} of this kind, which is "
                f"{desk.status}; cancel it first, or wait for its last round."
            )
            raise Refused(ProblemCode.CONFLICT, detail)
        decays = desk.spec.release.ema_decay, spec.release.ema_decay
        if desk.spec.kind is TaskKind.TRAIN and decays[0] != decays[1]:
            detail = (
                f"Task {desk.task!r} of population {spec.population!r} has release.ema_decay "
                f"{decays[0]:g}, this one {decays[1]:g}: keyboards serve one of them. "
                "Give both the same, or cancel the other first."
            )
            raise Refused(ProblemCode.CONFLICT, detail)

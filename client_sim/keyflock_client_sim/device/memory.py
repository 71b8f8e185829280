"""The memory of a device lasts from one visit to the next."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from keyflock_client_sim.device.installation import LocalFacts
from keyflock_client_sim.device.local_rules import meets_rules
from keyflock_client_sim.device.wanted_models import WantedModel, wanted_models
from keyflock_compression import SpecError, parse_spec
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.protocol.messages import Assignment, Capabilities, ReturnWindow, TaskKind

#: A device stores the round's model, and the one before it for an assignment that comes again; or the two
#: that it compares.
MAX_STORED_MODELS: Final = 2
#: So many finished assignments are remembered, so that none is done twice.
MAX_FINISHED_ASSIGNMENTS: Final = 16


def _no_assignments() -> deque[AssignmentId]:
    return deque(maxlen=MAX_FINISHED_ASSIGNMENTS)


@dataclass(slots=True)
class DeviceMemory:
    """The device's stored models, its finished assignments, and the facts of its last visit."""

    #: The return window that the server named last.
    return_window: ReturnWindow
    #: Digests of the stored models, newest first.
    stored_models: tuple[bytes, ...] = ()
    #: The facts as of the last check-in.
    facts: LocalFacts = field(default_factory=LocalFacts)
    #: Words that had been typed when a report of training was acknowledged last.
    words_at_last_training: int = 0
    finished_assignments: deque[AssignmentId] = field(default_factory=_no_assignments)

    def add_model(self, digest: bytes) -> None:
        """Remember a model that is stored now."""
        self.stored_models = (digest, *self.stored_models)[:MAX_STORED_MODELS]

    def next_download(self, assignment: Assignment) -> WantedModel | None:
        """Return the next model to download for an assignment; None once it has all that it needs.

        Those that it needs and has come first among the stored ones, so that none makes room for another.
        """
        wanted = wanted_models(assignment)
        needed = {one.digest for one in wanted}
        self.stored_models = tuple(sorted(self.stored_models, key=lambda digest: digest not in needed))
        return next((one for one in wanted if one.digest not in self.stored_models), None)

    def evicted_models(self) -> tuple[bytes, ...]:
        """Return the models that make room for the next one."""
        return self.stored_models[MAX_STORED_MODELS - 1 :]

    def may_take(self, assignment: Assignment, capabilities: Capabilities) -> bool:
        """Return whether the device knows this kind of work and its codec, and meets the task's rules."""
        try:
            parse_spec(assignment.codec)
        except SpecError:
            return False
        kind = assignment.task_kind
        has_plans = assignment.personalising is not None, assignment.evaluating is not None
        needs_plans = kind is TaskKind.PERSONALIZE, kind is TaskKind.EVALUATE
        if kind not in capabilities.tasks or has_plans != needs_plans:
            return False
        rules = assignment.device_rules
        return rules is None or meets_rules(rules, self.facts, self.words_at_last_training)

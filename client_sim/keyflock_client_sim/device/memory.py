"""The memory of a device lasts from one visit to the next."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from keyflock_client_sim.device import requests
from keyflock_client_sim.device.installation import LocalFacts
from keyflock_client_sim.device.local_rules import meets_rules
from keyflock_compression import SpecError, parse_spec
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.protocol.messages import Assignment, Capabilities, ReturnWindow

#: A device stores the round's model, and the one before it for an assignment that comes again.
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

    def evicted_models(self) -> tuple[bytes, ...]:
        """Return the models that make room for the next one."""
        return self.stored_models[MAX_STORED_MODELS - 1 :]

    def may_take(self, assignment: Assignment, capabilities: Capabilities) -> bool:
        """Return whether the device knows this kind of work and its codec, and meets the task's rules."""
        try:
            parse_spec(assignment.codec)
        except SpecError:
            return False
        is_known = assignment.task_kind in capabilities.tasks
        if not is_known or requests.is_personal(assignment) is not (assignment.personalising is not None):
            return False
        rules = assignment.device_rules
        return rules is None or meets_rules(rules, self.facts, self.words_at_last_training)

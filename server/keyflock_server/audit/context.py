"""Who changes something, in which role and why: every change that an operator makes carries one of these."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

#: The names that stand in the log for the server itself, where no operator has made the change.
POLICY: Final = "policy"
GATE: Final = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditContext:
    """Who makes a change, in which role, why and when; the change adds what it changes."""

    #: The operator's name; ``POLICY`` or ``GATE`` for what the server does by itself.
    operator: str
    role: str
    #: 1 to 300 printable characters.
    reason: str
    #: The name of the change, for example ``task.pause``.
    action: str
    at: datetime
    #: The subject's name in the log where that is not its id: a device has a keyed digest there, because the
    #: log outlives the device.
    subject: str | None = None
    #: The revision of the subject that the change was decided on (``revision_of``): its transaction makes no
    #: change of another one. None: of any.
    revision: str | None = None

    def about(self, subject: str) -> "AuditContext":
        """Return the same context with this name of the subject."""
        return replace(self, subject=subject)

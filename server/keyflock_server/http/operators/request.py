"""What the handler of an operator's call gets: everything is checked, and decoded by the table's types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from keyflock_server.audit.context import AuditContext
from keyflock_server.identity.operators import Operator
from keyflock_server.protocol.fields import Name
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.protocol.operator.call import Query
from keyflock_server.protocol.problems import ApiError, ProblemCode

Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
#: More digits than any version has, and few enough for every database.
MAX_VERSION_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class OperatorRequest(Generic[Q, B]):
    """One call of an operator whose token and role suffice."""

    operator: Operator
    #: When it was let in.
    at: datetime
    path_params: Mapping[str, str]
    query: Q
    body: B
    #: The media type of the body, without parameters; empty without one.
    media_type: str = ""
    #: The headers; their names are in lower case.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The present revision, where ``If-Match`` named it; None: the change may be made of any.
    revision: str | None = None

    @property
    def population(self) -> PopulationName:
        """Return the population in the path: any of its names."""
        return PopulationName(self.path_params["population"])

    @property
    def task(self) -> str:
        """Return the task in the path: its name, or the name with a number."""
        return self.path_params["task"]

    @property
    def round_id(self) -> RoundId:
        """Return the round in the path."""
        return RoundId(self.path_params["round"])

    @property
    def device(self) -> DeviceId:
        """Return the device in the path."""
        return DeviceId(self.path_params["device"])

    @property
    def version(self) -> int:
        """Return the model version in the path; raises ApiError ``model_unknown`` if it is not a number."""
        text = self.path_params["version"]
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS):
            raise ApiError(ProblemCode.MODEL_UNKNOWN, "A model version is a number.")
        return int(text)

    def audit(self, action: str, reason: str) -> AuditContext:
        """Return what the audit log is told of the change that this call makes.

        Args:
            action: What is done, to what: ``task.pause``.
            reason: The operator's reason.
        """
        return AuditContext(
            operator=self.operator.name,
            role=self.operator.role,
            reason=reason,
            action=action,
            at=self.at,
            revision=self.revision,
        )

    def new_name(self, noun: str) -> str:
        """Return the path parameter ``noun`` as a name for something new; raises ApiError if it is none."""
        try:
            return msgspec.convert(self.path_params[noun], Name)
        except msgspec.ValidationError as error:
            raise ApiError(
                ProblemCode.MALFORMED_BODY, f"The {noun}'s name in the address: {error}."
            ) from None

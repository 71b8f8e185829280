"""What a call's credentials have opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol import calls
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused


@dataclass(frozen=True, slots=True)
class Admission:
    """One call that its credentials have opened."""

    parts: Mapping[str, str]
    headers: Mapping[str, str]
    #: None for a call that needs no credential and showed none.
    device: DeviceIdentity | None = None
    assignment: AssignmentClaims | None = None
    #: What follows the path's question mark, as it was sent.
    query: str = ""

    @property
    def identity(self) -> DeviceIdentity:
        """The device; only calls that require its token ask."""
        if self.device is None:
            raise missing("Authorization: Bearer <token>")
        return self.device

    @property
    def claims(self) -> AssignmentClaims:
        """The assignment; only calls that require its token ask."""
        if self.assignment is None:
            raise missing(calls.ASSIGNMENT_HEADER)
        return self.assignment

    def version(self) -> int:
        """The model version in the path; raises Refused ``model_unknown`` for what is no number."""
        version = self.parts["version"]
        if not (version.isascii() and version.isdigit() and len(version) <= 10):
            raise Refused(ProblemCode.MODEL_UNKNOWN, "A model version is a number.")
        return int(version)

    def own_population(self) -> PopulationName:
        """The population in the path, which must be the device's own; raises Refused ``forbidden``."""
        population = self.identity.population
        if self.parts["population"] != population:
            raise Refused(ProblemCode.FORBIDDEN, "This device is enrolled in another population.")
        return population

    def is_whole_user(self) -> bool:
        """Whether forget-me is to take all that is the user's; raises Refused for a scope that is none."""
        scopes = parse_qs(self.query, keep_blank_values=True, max_num_fields=16).get("scope", ["device"])
        if scopes not in (["device"], ["user"]):
            raise Refused(ProblemCode.MALFORMED_BODY, "scope is device or user, once.")
        return scopes == ["user"]


def missing(header: str) -> Refused:
    """The refusal of a call without a credential that it needs."""
    return Refused(ProblemCode.TOKEN_MISSING, f"This call needs the header {header}.")

"""A call whose credentials were checked."""

from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol import calls
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode


class AuthenticatedCall(msgspec.Struct, frozen=True):
    """One call whose credentials were checked."""

    path_params: Mapping[str, str]
    headers: Mapping[str, str]
    #: None for a call that needs no credential and carried none.
    device: DeviceIdentity | None = None
    assignment: AssignmentClaims | None = None
    #: The query string, as it was sent.
    query: str = ""
    #: Whether the population in the path is the device's own, under another of its names.
    is_own_name: bool = False
    #: What ``Revocations.check`` has returned for the device.
    revocation_key: bytes | None = None

    @property
    def identity(self) -> DeviceIdentity:
        """Return the device; for calls that require a device token."""
        if self.device is None:
            raise device_token_missing()
        return self.device

    @property
    def claims(self) -> AssignmentClaims:
        """Return the assignment's claims; for calls that require an assignment token."""
        if self.assignment is None:
            raise assignment_token_missing()
        return self.assignment

    def version(self) -> int:
        """Return the model version in the path; raises ApiError ``model_unknown`` if it is not a number."""
        version = self.path_params["version"]
        if not (version.isascii() and version.isdigit() and len(version) <= 10):
            raise ApiError(ProblemCode.MODEL_UNKNOWN, "A model version is a number.")
        return int(version)

    def own_population(self) -> PopulationName:
        """Return the population in the path; raises ApiError ``forbidden`` if it is not the device's own."""
        population = self.identity.population
        if self.path_params["population"] != population and not self.is_own_name:
            raise ApiError(ProblemCode.FORBIDDEN, "This device is enrolled in another population.")
        return population

    def is_about_whole_user(self) -> bool:
        """Return whether the call is about all of the user; raises ApiError for an invalid scope."""
        scopes = parse_qs(self.query, keep_blank_values=True, max_num_fields=16).get("scope", ["device"])
        if scopes not in (["device"], ["user"]):
            raise ApiError(ProblemCode.MALFORMED_BODY, "scope is device or user, once.")
        return scopes == ["user"]


def device_token_missing() -> ApiError:
    """Return the error for a call that lacks the device's token."""
    return ApiError(ProblemCode.TOKEN_MISSING, "This call needs the header Authorization: Bearer <token>.")


def assignment_token_missing() -> ApiError:
    """Return the error for a call that lacks the assignment's token."""
    return ApiError(
        ProblemCode.ASSIGNMENT_TOKEN_MISSING, f"This call needs the header {calls.ASSIGNMENT_HEADER}."
    )

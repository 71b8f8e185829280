"""The errors between a phone (or an operator) and the server, and the documents that describe them.

    ApiError                     a call that cannot be fulfilled; has a ProblemCode
      -> Problem                 the document in the response (RFC 9457 fields and ours)

The table ``PROBLEMS`` is the only place that defines a code's HTTP status, whose fault it is, and its title.
A refusal of work is not an error but a normal answer, see ``messages.Refusal``.

Source: RFC 9457, Problem Details for HTTP APIs.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.messages import ReturnWindow


class Fault(StrEnum):
    """Who is at fault and has to act."""

    CLIENT = "client"
    SERVER = "server"
    OPERATOR = "operator"


class ProblemCode(StrEnum):
    """Stable error codes that an SDK may switch on."""

    TOKEN_MISSING = "token_missing"  # noqa: S105 - the name of a problem, not a secret
    TOKEN_INVALID = "token_invalid"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    ENROLMENT_EXPIRED = "enrolment_expired"
    ASSIGNMENT_TOKEN_MISSING = "assignment_token_missing"  # noqa: S105
    ASSIGNMENT_TOKEN_INVALID = "assignment_token_invalid"  # noqa: S105
    ATTESTATION_FAILED = "attestation_failed"
    USER_NOT_PROVEN = "user_not_proven"
    FORBIDDEN = "forbidden"
    ROLE_TOO_WEAK = "role_too_weak"
    QUARANTINED = "quarantined"
    NOT_FOUND = "not_found"
    POPULATION_UNKNOWN = "population_unknown"
    MODEL_UNKNOWN = "model_unknown"
    MODEL_WITHDRAWN = "model_withdrawn"
    TASK_UNKNOWN = "task_unknown"
    HEAD_UNKNOWN = "head_unknown"
    HEAD_MAP_UNKNOWN = "head_map_unknown"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    REPORT_CONFLICT = "report_conflict"
    PRECONDITION_FAILED = "precondition_failed"
    ROUND_GONE = "round_gone"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MALFORMED_REQUEST = "malformed_request"
    MALFORMED_QUERY = "malformed_query"
    MALFORMED_BODY = "malformed_body"
    MALFORMED_DELTA = "malformed_delta"
    MALFORMED_HEAD = "malformed_head"
    STALE_HEAD = "stale_head"
    WRONG_LAYOUT = "wrong_layout"
    NON_FINITE_DELTA = "non_finite_delta"
    DELTA_TOO_LARGE = "delta_too_large"
    TOO_MANY_EXAMPLES = "too_many_examples"
    WRONG_ASSIGNMENT = "wrong_assignment"
    INVALID_TASK = "invalid_task"
    INVALID_COHORT = "invalid_cohort"
    INVALID_CHECKPOINT = "invalid_checkpoint"
    PROTOCOL_UNSUPPORTED = "protocol_unsupported"
    FEATURE_OFF = "feature_off"
    QUOTA_EXCEEDED = "quota_exceeded"
    TOO_MANY_REQUESTS = "too_many_requests"
    HEAD_UNREADABLE = "head_unreadable"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    REPORT_PENDING = "report_pending"
    INTERNAL = "internal"


class ProblemKind(NamedTuple):
    """One row of the table ``PROBLEMS``."""

    status: int
    fault: Fault
    title: str
    may_retry: bool = False


PROBLEMS: Final = MappingProxyType(
    {
        ProblemCode.TOKEN_MISSING: ProblemKind(401, Fault.CLIENT, "A bearer token is needed; enrol first."),
        ProblemCode.TOKEN_INVALID: ProblemKind(
            401, Fault.CLIENT, "The token is not one of this server's; enrol again."
        ),
        ProblemCode.TOKEN_EXPIRED: ProblemKind(401, Fault.CLIENT, "The token has expired; refresh it."),
        ProblemCode.ENROLMENT_EXPIRED: ProblemKind(
            401, Fault.CLIENT, "The token expired too long ago to be refreshed; enrol anew, without it."
        ),
        # No 401, which is about the device's token: a phone must not throw that away.
        ProblemCode.ASSIGNMENT_TOKEN_MISSING: ProblemKind(
            403, Fault.CLIENT, "The assignment's token is needed beside the device's."
        ),
        ProblemCode.ASSIGNMENT_TOKEN_INVALID: ProblemKind(
            403, Fault.CLIENT, "The assignment's token is not one of this server's; check in again."
        ),
        ProblemCode.ATTESTATION_FAILED: ProblemKind(
            401, Fault.CLIENT, "The attestation evidence was not accepted."
        ),
        ProblemCode.USER_NOT_PROVEN: ProblemKind(
            422, Fault.CLIENT, "The user is no secret, nor a statement that this server can check."
        ),
        ProblemCode.FORBIDDEN: ProblemKind(403, Fault.CLIENT, "This token does not allow that."),
        ProblemCode.ROLE_TOO_WEAK: ProblemKind(
            403, Fault.OPERATOR, "The token's role does not allow that; ask for one of a stronger role."
        ),
        ProblemCode.QUARANTINED: ProblemKind(403, Fault.CLIENT, "This device is quarantined."),
        ProblemCode.NOT_FOUND: ProblemKind(404, Fault.CLIENT, "There is nothing at this address."),
        ProblemCode.POPULATION_UNKNOWN: ProblemKind(404, Fault.CLIENT, "No such population."),
        ProblemCode.MODEL_UNKNOWN: ProblemKind(404, Fault.CLIENT, "No such model version."),
        ProblemCode.MODEL_WITHDRAWN: ProblemKind(
            404, Fault.CLIENT, "That model version was withdrawn; take the newest."
        ),
        ProblemCode.TASK_UNKNOWN: ProblemKind(404, Fault.OPERATOR, "No such task."),
        ProblemCode.HEAD_UNKNOWN: ProblemKind(404, Fault.CLIENT, "No head is stored."),
        ProblemCode.HEAD_MAP_UNKNOWN: ProblemKind(
            404, Fault.CLIENT, "There is no map to this version; fit the head anew."
        ),
        ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(
            405, Fault.CLIENT, "This address does not take that method."
        ),
        ProblemCode.CONFLICT: ProblemKind(409, Fault.CLIENT, "That contradicts what is already there."),
        ProblemCode.REPORT_CONFLICT: ProblemKind(
            409, Fault.CLIENT, "Another report was already taken for this assignment."
        ),
        ProblemCode.PRECONDITION_FAILED: ProblemKind(
            412, Fault.CLIENT, "What is stored is not what this would replace."
        ),
        ProblemCode.ROUND_GONE: ProblemKind(410, Fault.CLIENT, "The round is over; check in again."),
        ProblemCode.BODY_TOO_LARGE: ProblemKind(
            413, Fault.CLIENT, "The body is larger than this call takes."
        ),
        ProblemCode.BODY_TIMEOUT: ProblemKind(
            408, Fault.CLIENT, "The body did not arrive in time.", may_retry=True
        ),
        ProblemCode.UNSUPPORTED_MEDIA_TYPE: ProblemKind(
            415, Fault.CLIENT, "The body's type or encoding is not taken here."
        ),
        ProblemCode.MALFORMED_REQUEST: ProblemKind(
            400, Fault.CLIENT, "That is not HTTP/1.1 as this server reads it."
        ),
        ProblemCode.MALFORMED_QUERY: ProblemKind(
            422, Fault.OPERATOR, "The query string is not what this call takes."
        ),
        ProblemCode.MALFORMED_BODY: ProblemKind(422, Fault.CLIENT, "The body is not what this call takes."),
        ProblemCode.MALFORMED_DELTA: ProblemKind(422, Fault.CLIENT, "The delta cannot be decoded."),
        ProblemCode.MALFORMED_HEAD: ProblemKind(
            422, Fault.CLIENT, "The head is not a personal model of this kind."
        ),
        ProblemCode.STALE_HEAD: ProblemKind(
            422, Fault.CLIENT, "The head was fitted on none of the recent models."
        ),
        ProblemCode.WRONG_LAYOUT: ProblemKind(422, Fault.CLIENT, "The delta is laid out for another model."),
        ProblemCode.NON_FINITE_DELTA: ProblemKind(
            422, Fault.CLIENT, "The delta holds a value that is not finite."
        ),
        ProblemCode.DELTA_TOO_LARGE: ProblemKind(
            422, Fault.CLIENT, "The delta's norm is beyond the round's bound."
        ),
        ProblemCode.TOO_MANY_EXAMPLES: ProblemKind(
            422, Fault.CLIENT, "The report claims more examples than the assignment allows."
        ),
        ProblemCode.WRONG_ASSIGNMENT: ProblemKind(
            403, Fault.CLIENT, "The assignment token belongs to another assignment."
        ),
        ProblemCode.INVALID_TASK: ProblemKind(422, Fault.OPERATOR, "The task cannot be run as written."),
        ProblemCode.INVALID_COHORT: ProblemKind(422, Fault.OPERATOR, "That is no cohort expression."),
        ProblemCode.INVALID_CHECKPOINT: ProblemKind(422, Fault.OPERATOR, "The checkpoint cannot be used."),
        ProblemCode.PROTOCOL_UNSUPPORTED: ProblemKind(
            426, Fault.CLIENT, "This server speaks another protocol version."
        ),
        ProblemCode.FEATURE_OFF: ProblemKind(501, Fault.OPERATOR, "This server does not do that."),
        ProblemCode.HEAD_UNREADABLE: ProblemKind(500, Fault.OPERATOR, "The stored head cannot be read."),
        ProblemCode.QUOTA_EXCEEDED: ProblemKind(507, Fault.OPERATOR, "The space set aside for this is full."),
        ProblemCode.TOO_MANY_REQUESTS: ProblemKind(
            429, Fault.CLIENT, "Too many requests of this kind came from there.", may_retry=True
        ),
        ProblemCode.OVERLOADED: ProblemKind(
            503, Fault.SERVER, "The server has too much to do.", may_retry=True
        ),
        ProblemCode.NOT_READY: ProblemKind(
            503, Fault.SERVER, "The server is starting or stopping.", may_retry=True
        ),
        ProblemCode.REPORT_PENDING: ProblemKind(
            503, Fault.SERVER, "The report waits for others; send it again.", may_retry=True
        ),
        ProblemCode.INTERNAL: ProblemKind(500, Fault.SERVER, "The server failed.", may_retry=True),
    }
)


class Problem(Message, frozen=True, kw_only=True):
    """A problem document, in the format of the call's body (msgpack for SDKs, JSON for operators)."""

    type: str
    title: str
    status: int
    detail: str
    code: ProblemCode
    fault: Fault
    retry: ReturnWindow | None = None
    #: Each problem by itself, where an operator's file has several; the detail has them all in one text.
    problems: tuple[str, ...] = ()


class ApiError(Exception):
    """A call cannot be fulfilled, and has changed nothing; it is answered with a problem document.

    Args:
        code: The error code.
        detail: One sentence: what was wrong with this request, and what to do. No secret, no user text.
        retry: When to try again, for codes that may be retried.
        problems: Each problem by itself, where there are several.
    """

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        retry: ReturnWindow | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry = retry
        self.problems = problems

    @property
    def status(self) -> int:
        """Return the HTTP status of this error."""
        return PROBLEMS[self.code].status

    def document(self) -> Problem:
        """Return the problem document of this error."""
        kind = PROBLEMS[self.code]
        retry = self.retry or (ReturnWindow(min_s=1.0, max_s=5.0) if kind.may_retry else None)
        return Problem(
            type=f"urn:keyflock:problem:{self.code}",
            title=kind.title,
            status=kind.status,
            detail=self.detail,
            code=self.code,
            fault=kind.fault,
            retry=retry,
            problems=self.problems,
        )

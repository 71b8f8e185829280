"""Operators' messages and calls about releases: what keyboards are served, and who decides it."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import Name, VersionNumber
from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query, Reason, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.operator.promotion_policy import EVERYBODY, PromotionPolicy
from keyflock_server.protocol.roles import Role


class ReleaseStep(Struct, frozen=True, kw_only=True):
    """A row of a population's release history: what keyboards were served from then on, and why."""

    #: 0 for the first; there are no gaps.
    sequence: int
    at: datetime
    #: created, staged, inconclusive, held, promoted, rolled_back or withdrawn.
    action: str
    #: The version that is served to everybody who is not in the candidate's stage.
    version: int
    #: The version that is served to the devices whose bucket is in the stage; null without one.
    candidate: int | None
    #: The candidate's stage, in percent of the devices; 100 without a candidate.
    percent: int
    #: The operator; ``policy`` or ``gate`` for what the server did by itself.
    operator: str
    reason: str
    #: What the gate had found when the step was taken; null for a step that asked no gate.
    evidence: dict[str, Any] | None = None


class GateView(Struct, frozen=True, kw_only=True):
    """What the gate finds now; asking changes nothing, and costs no look."""

    candidate: int
    #: The version that it is compared with.
    released: int
    #: pass, fail, inconclusive or no_data.
    verdict: str
    #: What each check found, with the intervals of its looks.
    findings: list[dict[str, Any]]


class ReleaseQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a release."""

    #: The id of a device, to see which version it is served.
    device: Name | None = None


class DeviceRelease(Struct, frozen=True, kw_only=True):
    """What one device's keyboard is served now."""

    #: Its bucket, in [0, 10,000), which never changes: it is in every stage above a hundredth of it.
    bucket: int
    version: int


class ReleaseView(Struct, frozen=True, kw_only=True):
    """A population's release: what its keyboards are served now."""

    population: str
    #: idle, staged, inconclusive, held, promoted or rolled_back.
    phase: str
    version: int
    candidate: int | None
    percent: int
    #: The newest version, which rounds train from.
    newest: int
    #: When the last step was taken, by whom and why.
    since: datetime
    operator: str
    reason: str
    #: The number of the last step, by which a change says what it was decided on.
    revision: int
    policy: PromotionPolicy
    #: What the gate finds of the candidate now; null without a candidate, and in lists.
    gate: GateView | None = None
    #: What the device is served that was asked for; null without one.
    device: DeviceRelease | None = None


class ReleaseList(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/releases``: the releases of all populations, ordered by population."""

    items: list[ReleaseView]
    next: str | None = None


class ReleaseHistory(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/populations/{population}/release/history``: its steps, newest first."""

    items: list[ReleaseStep]
    next: str | None = None


class GateQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of the gate."""

    #: The version to judge; left out, the candidate or, without one, the newest version.
    candidate: VersionNumber | None = None


class StartOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/release/start``."""

    #: The version; left out, the present candidate or, without one, the newest version.
    candidate: VersionNumber | None = None
    #: The stage; left out, the policy's first stage, or for the present candidate the stage that it has.
    percent: Annotated[int, Meta(ge=0, lt=EVERYBODY)] | None = None
    #: Serve it although the gate found it worse; takes the role admin.
    is_forced: bool = False
    reason: Reason


class PromoteOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/release/promote``."""

    #: The version; left out, the candidate.
    version: VersionNumber | None = None
    #: Promote it although the gate did not pass it; takes the role admin.
    is_forced: bool = False
    reason: Reason


class ReleaseRollbackOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/release/rollback``."""

    #: A version that was served before; left out, the candidate is taken back or, without one, the version.
    to: VersionNumber | None = None
    reason: Reason


class PolicyOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``PUT /admin/v1/populations/{population}/release/policy``."""

    policy: PromotionPolicy
    reason: Reason


_PATH: Final = "/admin/v1/populations/{population}/release"

RELEASES: Final = OperatorCall(
    "releases",
    "GET",
    "/admin/v1/releases",
    Role.VIEWER,
    PageQuery,
    NoBody,
    ReleaseList,
    "List what the keyboards of all populations are served.",
)
RELEASE: Final = OperatorCall(
    "release",
    "GET",
    _PATH,
    Role.VIEWER,
    ReleaseQuery,
    NoBody,
    ReleaseView,
    "Return what a population's keyboards are served.",
)
RELEASE_HISTORY: Final = OperatorCall(
    "release_history",
    "GET",
    f"{_PATH}/history",
    Role.VIEWER,
    PageQuery,
    NoBody,
    ReleaseHistory,
    "List what a population's keyboards were served, newest first.",
)
RELEASE_GATE: Final = OperatorCall(
    "release_gate",
    "GET",
    f"{_PATH}/gate",
    Role.VIEWER,
    GateQuery,
    NoBody,
    GateView,
    "Judge a version by what phones have evaluated so far; nothing is changed.",
)
RELEASE_POLICY: Final = OperatorCall(
    "release_policy",
    "GET",
    f"{_PATH}/policy",
    Role.VIEWER,
    Query,
    NoBody,
    PromotionPolicy,
    "Return a population's policy.",
)
SET_RELEASE_POLICY: Final = OperatorCall(
    "set_release_policy",
    "PUT",
    f"{_PATH}/policy",
    Role.ADMIN,
    Query,
    PolicyOrder,
    PromotionPolicy,
    "Give a population another policy; its ETag is the population's.",
    takes_if_match=True,
)
START_RELEASE: Final = OperatorCall(
    "start_release",
    "POST",
    f"{_PATH}/start",
    Role.OPERATOR,
    Query,
    StartOrder,
    ReleaseView,
    "Serve a candidate to a stage of the devices, or to a wider one.",
    takes_if_match=True,
)
PROMOTE_RELEASE: Final = OperatorCall(
    "promote_release",
    "POST",
    f"{_PATH}/promote",
    Role.OPERATOR,
    Query,
    PromoteOrder,
    ReleaseView,
    "Serve a version to everybody.",
    takes_if_match=True,
)
HOLD_RELEASE: Final = OperatorCall(
    "hold_release",
    "POST",
    f"{_PATH}/hold",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    ReleaseView,
    "Stop the candidate at its stage until somebody starts, promotes or rolls back.",
    takes_if_match=True,
)
ROLL_BACK_RELEASE: Final = OperatorCall(
    "roll_back_release",
    "POST",
    f"{_PATH}/rollback",
    Role.OPERATOR,
    Query,
    ReleaseRollbackOrder,
    ReleaseView,
    "Take the candidate back or, without one, serve the version before; phones do at their next check.",
    takes_if_match=True,
)

CALLS: Final = (
    RELEASES,
    RELEASE,
    RELEASE_HISTORY,
    RELEASE_GATE,
    RELEASE_POLICY,
    SET_RELEASE_POLICY,
    START_RELEASE,
    PROMOTE_RELEASE,
    HOLD_RELEASE,
    ROLL_BACK_RELEASE,
)

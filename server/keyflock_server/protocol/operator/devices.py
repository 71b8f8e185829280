"""Operators' messages and calls about devices."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import Count, Locale
from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query, Reason, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.roles import Role


class StrikeView(Struct, frozen=True, kw_only=True):
    """One round in which a device's report was refused."""

    at: datetime
    round: str
    verdict: str


class DeviceView(Struct, frozen=True, kw_only=True):
    """A device and its violations; nothing about the person."""

    id: str
    population: str
    app_build: int
    locale: str
    #: How strong it is: 0 unknown, 1 low, 2 mid, 3 high.
    tier: int = 0
    #: Groups that the app has put it in.
    tags: list[str] = []
    enrolled_at: datetime
    last_seen_at: datetime
    last_contributed_at: datetime | None = None
    #: Number of assignments in a row that expired; each beyond the first halves the chance of another one.
    silences: int = 0
    is_quarantined: bool = False
    #: End of the last quarantine, also when it is over.
    quarantined_until: datetime | None = None
    #: The reason of the last quarantine.
    reason: str = ""
    #: Who quarantined it: policy or operator.
    quarantined_by: str = ""
    quarantines: int = 0
    #: What ``If-Match`` takes: it changes with the device's quarantine, violations and tokens.
    revision: str = ""
    #: Refused reports that may yet lead to a quarantine, oldest first.
    strikes: list[StrikeView] = []


class DeviceQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices of a population a list has."""

    #: Whether it is quarantined now; left out, any.
    quarantined: bool | None = None
    tier: Annotated[int, Meta(ge=0, le=3)] | None = None
    locale: Locale | None = None
    #: The oldest and the newest build of the app.
    app_build_min: Count | None = None
    app_build_max: Count | None = None


class DeviceList(Struct, frozen=True, kw_only=True):
    """A page of devices, ordered by id."""

    items: list[DeviceView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


class QuarantineOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/devices/{device}/quarantine``."""

    reason: Reason
    days: Annotated[float, Meta(gt=0.0, le=365.0)] = 365.0


class DeviceForgotten(Struct, frozen=True, kw_only=True):
    """A device is gone, as if its phone had asked for it."""

    id: str
    #: Number of personal models that went with it: those that it stored while it named no user.
    personal_models: int
    #: Whether the bytes of these are gone from the database's files too; else the server goes on.
    is_scrubbed: bool


DEVICES: Final = OperatorCall(
    "devices",
    "GET",
    "/admin/v1/populations/{population}/devices",
    Role.VIEWER,
    DeviceQuery,
    NoBody,
    DeviceList,
    "List devices of a population, ordered by id.",
)
DEVICE: Final = OperatorCall(
    "device",
    "GET",
    "/admin/v1/devices/{device}",
    Role.VIEWER,
    Query,
    NoBody,
    DeviceView,
    "Show a device, and what is held against it.",
)
QUARANTINE_DEVICE: Final = OperatorCall(
    "quarantine_device",
    "POST",
    "/admin/v1/devices/{device}/quarantine",
    Role.OPERATOR,
    Query,
    QuarantineOrder,
    DeviceView,
    "Keep a device out for some days.",
    takes_if_match=True,
)
RELEASE_DEVICE: Final = OperatorCall(
    "release_device",
    "POST",
    "/admin/v1/devices/{device}/release",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    DeviceView,
    "End a device's quarantine, and forget what was held against it.",
    takes_if_match=True,
)
REVOKE_DEVICE: Final = OperatorCall(
    "revoke_device",
    "POST",
    "/admin/v1/devices/{device}/revoke",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    DeviceView,
    "Make all tokens of a device void, for refreshing too.",
    takes_if_match=True,
)
FORGET_DEVICE: Final = OperatorCall(
    "forget_device",
    "POST",
    "/admin/v1/devices/{device}/forget",
    Role.ADMIN,
    Query,
    ReasonOrder,
    DeviceForgotten,
    "Erase a device, as if its phone had asked for it: none of its reports is counted from now on.",
    takes_if_match=True,
)

CALLS: Final = (DEVICES, DEVICE, QUARANTINE_DEVICE, RELEASE_DEVICE, REVOKE_DEVICE, FORGET_DEVICE)

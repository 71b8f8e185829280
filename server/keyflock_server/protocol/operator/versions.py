"""Operators' messages and calls about model versions."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from keyflock_server.protocol.fields import VersionNumber
from keyflock_server.protocol.operator.call import OCTETS, NoBody, OperatorCall, Query, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.roles import Role


class VersionView(Struct, frozen=True, kw_only=True):
    """A model version: where it comes from, and what was measured of it."""

    population: str
    version: int
    #: The version that it was made from; null for version 0.
    parent: int | None
    #: The round that made it, that round's task, and its reports; null where no round made it.
    round: str | None = None
    task: str | None = None
    reports: int | None = None
    created_at: datetime
    #: Whether rounds start from it now.
    is_newest: bool = False
    #: Size and SHA-256 of what phones download to train from it.
    download_bytes: int
    download_sha256: str
    #: Size of what keyboards download of it, where that is the versions' average; else null.
    released_bytes: int | None = None
    #: Loss on the population's anchor text, nats a word; null without such a text.
    anchor_loss: float | None = None
    #: Measurements of the step that made it.
    figures: dict[str, float] | None = None
    #: When a rollback withdrew it.
    withdrawn_at: datetime | None = None
    #: When an operator pinned it, so that it is never pruned.
    pinned_at: datetime | None = None
    #: Where it comes from, if no round made it.
    note: str = ""
    #: What ``If-Match`` takes: it changes when the version is pinned, unpinned or withdrawn.
    revision: str


class VersionList(Struct, frozen=True, kw_only=True):
    """A page of model versions, newest first."""

    items: list[VersionView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


class TensorDistance(Struct, frozen=True, kw_only=True):
    """How far apart two versions are in one tensor, in units of the parameters."""

    name: str
    shape: list[int]
    #: L2 norm in the base, and of the difference.
    base_norm: float
    distance: float


class VersionComparison(Struct, frozen=True, kw_only=True):
    """Two versions side by side."""

    version: VersionView
    base: VersionView
    #: L2 norm of the difference of all parameters, and the largest difference of one.
    distance: float
    max_difference: float
    tensors: list[TensorDistance]


class ComparisonQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version is compared with."""

    #: The other version.
    base: VersionNumber


class DownloadQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of a version's downloads is meant."""

    #: What phones train from, or what keyboards serve.
    weights: ModelWeights = ModelWeights.TRAINING


_PATH: Final = "/admin/v1/populations/{population}/versions"

VERSIONS: Final = OperatorCall(
    "versions",
    "GET",
    _PATH,
    Role.VIEWER,
    PageQuery,
    NoBody,
    VersionList,
    "List a population's model versions, newest first, with their lineage.",
)
VERSION: Final = OperatorCall(
    "version", "GET", f"{_PATH}/{{version}}", Role.VIEWER, Query, NoBody, VersionView, "Show a model version."
)
COMPARE_VERSIONS: Final = OperatorCall(
    "compare_versions",
    "GET",
    f"{_PATH}/{{version}}/comparison",
    Role.VIEWER,
    ComparisonQuery,
    NoBody,
    VersionComparison,
    "Compare a version with another one: figures side by side, and the distance of their weights.",
)
VERSION_CHECKPOINT: Final = OperatorCall(
    "version_checkpoint",
    "GET",
    f"{_PATH}/{{version}}/checkpoint",
    Role.VIEWER,
    Query,
    NoBody,
    bytes,
    "Download a version's float32 weights (safetensors, vocabulary and anchor text inside).",
    answer_media_type=OCTETS,
)
VERSION_DOWNLOAD: Final = OperatorCall(
    "version_download",
    "GET",
    f"{_PATH}/{{version}}/download",
    Role.VIEWER,
    DownloadQuery,
    NoBody,
    bytes,
    "Download what phones download of a version.",
    answer_media_type=OCTETS,
)
PIN_VERSION: Final = OperatorCall(
    "pin_version",
    "POST",
    f"{_PATH}/{{version}}/pin",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    VersionView,
    "Keep a version from ever being pruned.",
    takes_if_match=True,
)
UNPIN_VERSION: Final = OperatorCall(
    "unpin_version",
    "POST",
    f"{_PATH}/{{version}}/unpin",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    VersionView,
    "Let a version be pruned again as others are.",
    takes_if_match=True,
)

CALLS: Final = (
    VERSIONS,
    VERSION,
    COMPARE_VERSIONS,
    VERSION_CHECKPOINT,
    VERSION_DOWNLOAD,
    PIN_VERSION,
    UNPIN_VERSION,
)

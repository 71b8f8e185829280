"""Operators' messages and calls about populations."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import Name
from keyflock_server.protocol.operator.call import (
    MAX_CHECKPOINT_BYTES,
    MAX_QUESTION_BYTES,
    OCTETS,
    NoBody,
    OperatorCall,
    Query,
    Reason,
    ReasonOrder,
    ReasonQuery,
)
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.roles import Role


class PopulationView(Struct, frozen=True, kw_only=True):
    """A population: all phones that share one model."""

    name: str
    #: Its id, which never changes: metrics and log lines have it.
    id: str = ""
    #: Names that it had before, by which phones and operators still mean it.
    former_names: list[str] = []
    #: The newest model version.
    model_version: int
    parameter_count: int
    vocabulary_size: int
    #: Number of devices that are enrolled now.
    devices: int
    #: Description of the text on which versions are checked before they become the newest.
    anchor_text: str = ""
    #: Loss on the anchor text of the version that an operator last chose, in nats per word.
    anchor_loss_chosen: float | None = None
    #: When it was archived; null for one in use.
    archived_at: datetime | None = None
    #: It grows with each change by an operator.
    revision: int = 0
    #: Results of personalize rounds: prior, candidates with their gains, the best head.
    personalisation: dict[str, Any] | None = None


class PopulationQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which populations a list has."""

    #: Whether the list has those that are archived, and no others.
    archived: bool = False


class PopulationList(Struct, frozen=True, kw_only=True):
    """A page of populations, ordered by id."""

    items: list[PopulationView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


class CohortQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/cohort-preview``."""

    #: A cohort expression, as in ``[eligibility] cohort`` of a task.
    cohort: str


class CohortPreview(Struct, frozen=True, kw_only=True):
    """How many devices of a population a cohort expression matches."""

    population: str
    #: The expression, as it was parsed.
    cohort: str
    #: Number of enrolled devices, and how many of them are in the cohort.
    enrolled: int
    matching: int
    #: Number of devices that checked in within the last 24 hours, and how many of them are in the cohort; of
    #: devices that never reported, only as many are counted as pacing counts.
    active: int
    active_matching: int


class RollbackOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/rollback``."""

    #: The version whose weights are to be the newest again.
    to: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    reason: Reason


class RenameOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/rename``."""

    #: The population's name from now on.
    to: Name
    reason: Reason


class DeletionOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/delete``."""

    #: The population's name as in the address, typed again.
    confirm: Name
    reason: Reason


class PopulationDeleted(Struct, frozen=True, kw_only=True):
    """A population is gone."""

    name: str
    id: str
    #: Whether its rows and the bytes of its personal models are gone too; else the server goes on deleting.
    is_complete: bool


POPULATIONS: Final = OperatorCall(
    "populations",
    "GET",
    "/admin/v1/populations",
    Role.VIEWER,
    PopulationQuery,
    NoBody,
    PopulationList,
    "List the populations, ordered by id.",
)
CREATE_POPULATION: Final = OperatorCall(
    "create_population",
    "PUT",
    "/admin/v1/populations/{population}",
    Role.ADMIN,
    ReasonQuery,
    bytes,
    PopulationView,
    "Create a population whose version 0 is the checkpoint (safetensors, vocabulary inside).",
    status=201,
    is_creation=True,
    max_bytes=MAX_CHECKPOINT_BYTES,
    media_types=(OCTETS,),
)
PREVIEW_COHORT: Final = OperatorCall(
    "preview_cohort",
    "POST",
    "/admin/v1/populations/{population}/cohort-preview",
    Role.VIEWER,
    Query,
    CohortQuestion,
    CohortPreview,
    "Count the devices that a cohort expression matches.",
    max_bytes=MAX_QUESTION_BYTES,
)
ROLL_BACK: Final = OperatorCall(
    "roll_back",
    "POST",
    "/admin/v1/populations/{population}/rollback",
    Role.OPERATOR,
    Query,
    RollbackOrder,
    PopulationView,
    "Publish an earlier version anew as the newest, and withdraw those between.",
)
RENAME_POPULATION: Final = OperatorCall(
    "rename_population",
    "POST",
    "/admin/v1/populations/{population}/rename",
    Role.ADMIN,
    Query,
    RenameOrder,
    PopulationView,
    "Give a population another name; its former names go on to mean it.",
)
DELETE_POPULATION: Final = OperatorCall(
    "delete_population",
    "POST",
    "/admin/v1/populations/{population}/delete",
    Role.ADMIN,
    Query,
    DeletionOrder,
    PopulationDeleted,
    "Delete a population with its devices, personal models, rounds, tasks and versions.",
)

ARCHIVE_POPULATION: Final = OperatorCall(
    "archive_population",
    "POST",
    "/admin/v1/populations/{population}/archive",
    Role.ADMIN,
    Query,
    ReasonOrder,
    PopulationView,
    "Take a population out of use: no new devices, no new tasks; its keyboards go on with what they have.",
    takes_if_match=True,
)
UNARCHIVE_POPULATION: Final = OperatorCall(
    "unarchive_population",
    "POST",
    "/admin/v1/populations/{population}/unarchive",
    Role.ADMIN,
    Query,
    ReasonOrder,
    PopulationView,
    "Put an archived population back into use.",
    takes_if_match=True,
)

CALLS: Final = (
    POPULATIONS,
    CREATE_POPULATION,
    PREVIEW_COHORT,
    ROLL_BACK,
    RENAME_POPULATION,
    ARCHIVE_POPULATION,
    UNARCHIVE_POPULATION,
    DELETE_POPULATION,
)

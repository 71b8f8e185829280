"""What the endpoints ask of the coordinator, no more, so that they can be tried against anything."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    EnrolRequest,
    Failure,
    Forgotten,
    HeadErased,
    HeadStored,
    ModelWeights,
    Noted,
    Offer,
    OfferAnswer,
    Receipt,
    Refusal,
    Release,
    Report,
    ReturnWindow,
    SuggestionRequest,
    Suggestions,
)
from keyflock_server.protocol.operator import (
    CohortPreview,
    DecisionOrder,
    Devices,
    DeviceView,
    PopulationView,
    QuarantineOrder,
    RollbackOrder,
    RoundView,
    TaskView,
)
from keyflock_server.rounds.task import TaskSpec


class EnrolledDevice(Protocol):
    """A device that the server knows now."""

    @property
    def device(self) -> DeviceId:
        """Its id."""
        ...

    @property
    def population(self) -> PopulationName:
        """The population that it is in."""
        ...

    @property
    def generation(self) -> int:
        """The generation of its newest token."""
        ...

    @property
    def return_window(self) -> ReturnWindow:
        """When it should check in."""
        ...


class ErasureScope(Protocol):
    """What one forget-me takes."""

    @property
    def devices(self) -> Sequence[DeviceId]:
        """Which devices."""
        ...

    @property
    def owners(self) -> Mapping[PopulationName, Sequence[Owner]]:
        """Whose personal models, by population."""
        ...


class ModelDownload(Protocol):
    """A model version as phones download it."""

    @property
    def body(self) -> bytes:
        """A compression container."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body."""
        ...


class ModelStep(Protocol):
    """How one download follows from another."""

    @property
    def body(self) -> bytes:
        """A container of ``encode_weights_delta``."""
        ...

    @property
    def base(self) -> bytes:
        """SHA-256 of the download that it is applied to."""
        ...


class SdkService(Protocol):
    """What phones may ask. Every method raises ``Refused`` for a broken promise and changes nothing then."""

    async def enrol(
        self,
        request: EnrolRequest,
        shown: DeviceIdentity | None,
        *,
        user_proof: str | None = None,
        subject: str | None = None,
    ) -> EnrolledDevice:
        """A new device, or the one whose token was ``shown`` to be refreshed.

        Args:
            request: What the phone says.
            shown: Of the token to refresh.
            user_proof: What proves the user that the device has now, when it names another.
            subject: What the platform says the installation is.
        """
        ...

    async def erasure_scope(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> ErasureScope:
        """What forget-me takes: the device, or (whoever ``user`` proves) its user's devices everywhere."""
        ...

    async def forget(self, devices: Sequence[DeviceId]) -> Forgotten:
        """Remove these devices; nothing of them is counted afterwards."""
        ...

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Work, or why there is none and when to return."""
        ...

    async def model(self, population: PopulationName, version: int) -> ModelDownload:
        """A model version's bytes."""
        ...

    async def released_model(self, population: PopulationName, version: int) -> ModelDownload:
        """The bytes that keyboards serve of a version."""
        ...

    async def model_delta(
        self, population: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelStep | None:
        """The smallest step to a version's bytes from one of the downloads that the phone has, if any."""
        ...

    async def release(self, population: PopulationName) -> Release:
        """What keyboards should serve."""
        ...

    async def vocabulary(self, population: PopulationName) -> bytes:
        """The words that the model's rows mean."""
        ...

    async def offer(self, claims: AssignmentClaims, message: Offer) -> OfferAnswer:
        """Whether to upload."""
        ...

    async def report(self, claims: AssignmentClaims, message: Report) -> Receipt:
        """Take a delta; returns when it is in the aggregate, durably."""
        ...

    async def failure(self, claims: AssignmentClaims, message: Failure) -> Noted:
        """Take note that no delta will come."""
        ...


class HeadDownload(Protocol):
    """A stored head."""

    @property
    def data(self) -> bytes:
        """As the phone put it."""
        ...

    @property
    def tag(self) -> bytes:
        """Changes with the content."""
        ...


class HeadService(Protocol):
    """What phones may ask about stored heads; raises ``Refused`` like ``SdkService``."""

    async def put(self, identity: DeviceIdentity, data: bytes, condition: bytes | None) -> HeadStored:
        """Keep a head, if the one there has this tag (empty: if there is none; None: in any case)."""
        ...

    async def get(self, identity: DeviceIdentity) -> HeadDownload:
        """The head."""
        ...

    async def delete(self, identity: DeviceIdentity) -> HeadErased:
        """Remove the head."""
        ...


class HeadErasing(Protocol):
    """What forget-me owes, whether or not heads are stored now."""

    async def erase(self, population: PopulationName, owners: Sequence[Owner]) -> HeadErased:
        """Remove these owners' heads."""
        ...


class MapDownload(Protocol):
    """A head map as phones download it."""

    @property
    def body(self) -> bytes:
        """A container of ``encode_state``."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body."""
        ...


class HeadMapService(Protocol):
    """From heads of one version to heads of the next."""

    async def to(self, population: PopulationName, version: int) -> MapDownload:
        """The map from the version before to this one."""
        ...


class SuggestionService(Protocol):
    """What keyboards ask; raises ``Refused`` like ``SdkService``."""

    async def suggest(self, identity: DeviceIdentity, request: SuggestionRequest) -> Suggestions:
        """The next words."""
        ...

    def renamed(self, device: DeviceId) -> None:
        """The device may belong to another user now, or to none."""
        ...


class OperatorService(Protocol):
    """What operators may ask; raises ``Refused`` like ``SdkService``."""

    async def create_population(self, name: PopulationName, checkpoint: bytes) -> PopulationView:
        """A new population whose version 0 is this checkpoint (it carries its vocabulary)."""
        ...

    async def populations(self) -> list[PopulationView]:
        """All of them, by name."""
        ...

    async def roll_back(self, name: PopulationName, order: RollbackOrder) -> PopulationView:
        """Publish an earlier version anew as the newest; those between are withdrawn."""
        ...

    async def preview_cohort(self, population: PopulationName, expression: str) -> CohortPreview:
        """How many of its devices an expression fits."""
        ...

    async def create_task(self, spec: TaskSpec) -> TaskView:
        """A new task; its first round opens with the next pass."""
        ...

    async def tasks(self) -> list[TaskView]:
        """All of them, oldest first."""
        ...

    async def task(self, name: TaskName) -> TaskView:
        """One task."""
        ...

    async def pause_task(self, name: TaskName) -> TaskView:
        """Give out no more work; reports under way are still taken."""
        ...

    async def resume_task(self, name: TaskName) -> TaskView:
        """Give out work again."""
        ...

    async def cancel_task(self, name: TaskName) -> TaskView:
        """End the task for good; its open round is abandoned."""
        ...

    async def rounds(self, task: TaskName) -> list[RoundView]:
        """The task's rounds, oldest first."""
        ...

    async def round(self, round_id: RoundId) -> RoundView:
        """One round."""
        ...

    async def accept_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        """Publish what a held round made, with the next pass."""
        ...

    async def discard_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        """Give up what a held round's phones have brought."""
        ...

    async def devices(self, population: PopulationName) -> Devices:
        """Devices of a population, those ever quarantined first."""
        ...

    async def device(self, device: DeviceId) -> DeviceView:
        """One device."""
        ...

    async def quarantine_device(self, device: DeviceId, order: QuarantineOrder) -> DeviceView:
        """Keep a device out by hand."""
        ...

    async def revoke_device(self, device: DeviceId) -> DeviceView:
        """Make all tokens of a device void."""
        ...

    async def release_device(self, device: DeviceId) -> DeviceView:
        """Let a device in again, with nothing held against it."""
        ...

"""The dependencies of every part of the coordinator: store, blobs, clock, secrets, compute thread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from keyflock_server.coordinator.compute_thread import ComputeThread
from keyflock_server.coordinator.device_activity import DeviceActivity
from keyflock_server.coordinator.events import Observer
from keyflock_server.coordinator.group_commit import GroupCommit
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.revocations import Revocations
from keyflock_server.identity.users import Users
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore

Clock = Callable[[], datetime]


def no_load() -> float:
    """Return a load of 0, for simulations, in which nothing takes real time."""
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Everything that the coordinator uses from outside; it reads no global."""

    store: RecordStore
    #: Commits to the store what must be durable before a phone is answered.
    writes: GroupCommit
    blobs: BlobStore
    #: Returns the current instant, aware UTC.
    clock: Clock
    #: Whether ``clock`` goes on by itself. On a simulation's clock no answer depends on how busy the machine
    #: is.
    is_real_time: bool = True
    tokens: AssignmentTokens
    #: Key of the digests that stand for users, phones and installations in the store, at most 64 bytes.
    owner_key: bytes = field(repr=False)
    #: Verifies which user a phone names.
    users: Users
    #: The device tokens that are void; everything that reads tokens asks the same object.
    revocations: Revocations
    #: What has become of devices since their tokens were issued.
    activity: DeviceActivity = field(default_factory=DeviceActivity)
    #: Key of the sampling hash, at most 64 bytes.
    sampling_key: bytes
    #: Returns a new id that cannot be guessed.
    new_id: Callable[[], str]
    #: This process's name among those that share the store; a new one with every start.
    replica: str
    observer: Observer
    compute: ComputeThread
    #: How long a report may wait for its micro-batch; 0 never waits.
    ack_wait_s: float = 10.0
    #: Maximum number of reports per task that are decoded or wait for their batch; more are sent away.
    max_pending_reports: int = 4_096
    #: Whether no other process works on the store.
    is_sole: bool = True
    #: How long the leases of a process last that does not renew them.
    lease_s: float = 10.0
    #: Lifetime of a device token.
    device_token_ttl_s: float = 86_400.0
    #: How long a device token stays valid after its exchange for a new one, as the answer may have been lost.
    token_grace_s: float = 60.0
    #: How far the process is beyond its capacity; 0 is within it.
    load: Callable[[], float] = no_load

"""What every part of the coordinator is given: the store, the blobs, the clock, the secret, the workbench."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from keyflock_server.coordinator.events import Observer
from keyflock_server.coordinator.workbench import Workbench
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.revocations import Revocations
from keyflock_server.identity.users import Users
from keyflock_server.storage.door import Blobs, Store

Clock = Callable[[], datetime]


def random_id() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex


def calm() -> float:
    """Never overloaded: for simulations, in which nothing takes real time."""
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The coordinator's world; no part of it is read from anywhere else."""

    store: Store
    blobs: Blobs
    #: Gives now, aware UTC.
    clock: Clock
    tokens: AssignmentTokens
    #: Of the digests that users, phones and installations go by in the store, at most 64 bytes.
    owner_key: bytes = field(repr=False)
    #: Judges what phones say of their users.
    users: Users
    #: Which device tokens are void; whoever reads tokens asks the same object.
    revocations: Revocations
    #: Secret of the sampling hash, at most 64 bytes.
    sampling_key: bytes
    #: Ids that cannot be guessed.
    new_id: Callable[[], str]
    observer: Observer
    workbench: Workbench
    #: How long a report may wait for its micro-batch; 0 never waits.
    ack_wait_s: float = 10.0
    #: Reports being decoded or waiting for their batch at once, a task; more are told to come back.
    max_pending_reports: int = 4_096
    #: This process's name among those that share the store; a new one with every start.
    replica: str = field(default_factory=random_id)
    #: Whether no other process works on the store.
    is_sole: bool = True
    #: How long a process that says nothing keeps what it holds.
    lease_s: float = 10.0
    #: Life of a device token.
    device_token_ttl_s: float = 86_400.0
    #: How long a device token is good after it was exchanged for a new one, whose answer may have been lost.
    token_grace_s: float = 60.0
    #: How far the process is beyond its capacity; 0 is within it.
    load: Callable[[], float] = calm

"""What happens in the coordinator, for whoever counts it. Numbers and closed lists only, never a delta."""

from typing import Protocol

from keyflock_server.protocol.identifiers import PopulationName, TaskName


class Observer(Protocol):
    """Is told of what has happened; must return at once and never raise."""

    def flushed(self, task: TaskName, reports: int, duration_s: float) -> None:
        """A micro-batch was committed."""
        ...

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """A micro-batch could not be committed; nobody was acknowledged, and it will be tried again."""
        ...

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        """A task could not be driven on; the others go on, and it is tried again at the next pass."""
        ...

    def store_unreachable(self, error: Exception) -> None:
        """A pass could not read the store; it is tried again at the next."""
        ...

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        """Something was said of a report: it was refused, or clipped."""
        ...

    def quarantined(self, task: TaskName) -> None:
        """A device's refused reports were too many; it is kept out."""
        ...

    def strikes_withheld(self, task: TaskName, devices: int) -> None:
        """So many devices of a round were refused that it is not held against them."""
        ...

    def books_not_kept(self, error: Exception) -> None:
        """Counts of verdicts could not be written, or quarantines not read; the next pass tries again."""
        ...

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        """Assignments ran out of time; ``is_mostly``: with them, half of the round's slots have so far."""
        ...

    def unproven_devices_deleted(self, devices: int) -> None:
        """Devices that never reported and did not come back were deleted."""
        ...

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """A task was created whose stored sums may hold so few phones that one's update can be told."""
        ...

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """A round takes assignments."""
        ...

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """A round is closed, abandoned or cancelled."""
        ...

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        """What a round made did not pass the checks; the reason has numbers of the server's alone."""
        ...

    def rounds_waiting(self, held: int) -> None:
        """So many rounds are held now, of all tasks."""
        ...

    def version_published(self, population: PopulationName, version: int) -> None:
        """A new model version is the newest."""
        ...

    def rolled_back(self, population: PopulationName, version: int, to: int) -> None:
        """A new version with the weights of an earlier one is the newest, and those between are withdrawn."""
        ...

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """A population is personalised with what so many phones said."""
        ...

    def blobs_marked(self) -> None:
        """Blobs from before there were markers are marked as this database's from now on."""
        ...

    def orphan_deleted(self, key: str, size_bytes: int, age_s: float) -> None:
        """A blob that no row points to was deleted."""
        ...


class Silent:
    """Counts nothing."""

    def flushed(self, task: TaskName, reports: int, duration_s: float) -> None:
        """Ignored."""

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """Ignored."""

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        """Ignored."""

    def store_unreachable(self, error: Exception) -> None:
        """Ignored."""

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        """Ignored."""

    def quarantined(self, task: TaskName) -> None:
        """Ignored."""

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """Ignored."""

    def strikes_withheld(self, task: TaskName, devices: int) -> None:
        """Ignored."""

    def books_not_kept(self, error: Exception) -> None:
        """Ignored."""

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        """Ignored."""

    def unproven_devices_deleted(self, devices: int) -> None:
        """Ignored."""

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """Ignored."""

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """Ignored."""

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        """Ignored."""

    def rounds_waiting(self, held: int) -> None:
        """Ignored."""

    def version_published(self, population: PopulationName, version: int) -> None:
        """Ignored."""

    def rolled_back(self, population: PopulationName, version: int, to: int) -> None:
        """Ignored."""

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """Ignored."""

    def blobs_marked(self) -> None:
        """Ignored."""

    def orphan_deleted(self, key: str, size_bytes: int, age_s: float) -> None:
        """Ignored."""

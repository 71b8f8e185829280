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

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """A task was created whose stored sums may hold so few phones that one's update can be told."""
        ...

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """A round takes assignments."""
        ...

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """A round is closed, abandoned or cancelled."""
        ...

    def version_published(self, population: PopulationName, version: int) -> None:
        """A new model version is the newest."""
        ...

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """A population is personalised with what so many phones said."""
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

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """Ignored."""

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """Ignored."""

    def version_published(self, population: PopulationName, version: int) -> None:
        """Ignored."""

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """Ignored."""

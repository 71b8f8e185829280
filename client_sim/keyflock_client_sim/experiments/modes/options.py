"""The options of ``keyflock-sim modes``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYNC: Final = "sync"
ASYNC: Final = "async"
#: The modes in the order of tables and pictures.
MODES: Final = (SYNC, ASYNC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModesOptions:
    """The command's options; its help explains them."""

    data: str = "shakespeare"
    pretrain: str = "builtin"
    size: str = "small"
    devices: int = 300
    #: A profile's name or file, as for ``keyflock-sim run``.
    profile: str = "heavy_tailed"
    #: Phones that train at once, in either mode.
    concurrency: int = 39
    #: The phones of a synchronous round beyond its goal, as a share of it.
    over_selection: float = 0.3
    #: Reports that make a version in asynchronous mode.
    buffer: int = 10
    max_staleness: int = 100
    #: From a round's opening to its end. Two such fleets whose training cost nothing made 338 and 394 reports
    #: an hour with 300 s, 204 and 360 with 900 s; the work of the slowest is lost with the shorter.
    sync_deadline_s: float = 300.0
    #: From an assignment to its expiry: until then a phone that drops out silently holds a place.
    async_deadline_s: float = 900.0
    #: Virtual hours of each run.
    hours: float = 3.0
    #: Fleets that are compared.
    seeds: int = 3
    #: Server learning rates that are tried for each mode, on a fleet that is not compared.
    rates: tuple[float, ...] = (0.005, 0.01, 0.02)
    #: The duration of a trial as a share of a comparison's.
    trial_ratio: float = 0.4
    seed: int = 0
    picture: Path | None = None

    @property
    def goal(self) -> int:
        """Return a synchronous round's goal: with over-selection, ``concurrency`` phones train at once."""
        return int(self.concurrency / (1.0 + self.over_selection) + 1e-9)

"""The server's side of a run: real reports are really summed and stepped with, and nothing else is there.

The server's package is no dependency of the phones: it is found by name when a study asks for it.
"""

import json
import pkgutil
from collections.abc import Callable
from typing import Final, Protocol

from keyflock_client_sim.demo.task import task_toml
from keyflock_compression import CodecSpec
from keyflock_models.arrays import F32
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.layout import ParamLayout
from keyflock_server.protocol.messages import TrainingPlan

FACTORY: Final = "keyflock_server.aggregation.bare_rounds:BareRounds"


class BareRounds(Protocol):
    """What the factory makes."""

    @property
    def plan(self) -> TrainingPlan:
        """How phones train."""
        ...

    @property
    def weights(self) -> F32:
        """The newest version's master weights."""
        ...

    def download(self) -> bytes:
        """The newest version as phones get it."""
        ...

    def take(self, delta: bytes, examples: int) -> bool:
        """Sums a report; False if it is judged too long."""
        ...

    def close(self) -> None:
        """Steps by the mean, and begins the next round."""
        ...


def bare_rounds(task: str, start: Checkpoint) -> BareRounds:
    """The rounds of a task, from this version 0."""
    factory: Callable[[str, F32, ParamLayout], BareRounds] = pkgutil.resolve_name(FACTORY)
    return factory(task, start.weights, ParamLayout.of(start.config))


def arm_toml(spec: CodecSpec, *, goal: int, rounds: int) -> str:
    """The demo's task with this codec: all arms are alike but for it."""
    codec = "\n".join(f"{name} = {json.dumps(value)}" for name, value in spec.to_wire().items())
    return f"{task_toml('compression', goal=goal, rounds=rounds)}\n[codec]\n{codec}\n"

"""The server's side of a run sums real reports and steps the model, without anything else of a server."""

import json

from keyflock_client_sim.training_setup.task import task_toml
from keyflock_compression import CodecSpec
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_server.simulation import InMemoryTraining


def training_rounds(task: str, start: Checkpoint) -> InMemoryTraining:
    """Return the rounds of a task, from this version 0."""
    return InMemoryTraining(task, start.weights, ParamLayout.for_config(start.config))


def arm_toml(spec: CodecSpec, *, goal: int, rounds: int) -> str:
    """Return the demo's task with this codec: arms differ in nothing else."""
    codec = "\n".join(f"{name} = {json.dumps(value)}" for name, value in spec.to_wire().items())
    return f"{task_toml('compression', goal=goal, rounds=rounds)}\n[codec]\n{codec}\n"

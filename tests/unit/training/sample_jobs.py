"""Jobs that say something about the worker they run in, importable there by name: see ``conftest``."""

import os
import signal
import sys
import time
from dataclasses import dataclass

from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder


@dataclass(frozen=True)
class Environment:
    """Which process it ran in, under which variables."""

    def run(self, models: ModelFolder) -> tuple[int, dict[str, str]]:
        del models
        return os.getpid(), dict(os.environ)


@dataclass(frozen=True)
class Chatter:
    """A library that prints to standard output, and reads standard input, in the middle of a job."""

    def run(self, models: ModelFolder) -> str:
        del models
        os.write(1, b"noise\n")
        print("more noise", flush=True)  # noqa: T201 - that is what is tested
        return sys.stdin.read()


@dataclass(frozen=True)
class HasModel:
    """Whether the shelf holds a model."""

    digest: ModelDigest

    def run(self, models: ModelFolder) -> bool:
        return models.has(self.digest)


@dataclass(frozen=True)
class Fail:
    """A job that raises."""

    def run(self, models: ModelFolder) -> None:
        del models
        raise ValueError("no such word")


@dataclass(frozen=True)
class Die:
    """A job under which the process is killed, as the kernel does when memory runs out."""

    def run(self, models: ModelFolder) -> None:
        del models
        sys.stderr.write("memory is short\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Sleep:
    """A job that is under way for a while."""

    seconds: float

    def run(self, models: ModelFolder) -> float:
        del models
        time.sleep(self.seconds)
        return self.seconds

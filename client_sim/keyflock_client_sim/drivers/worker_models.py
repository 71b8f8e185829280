"""What trainers that use worker processes share: the models that they published, and the errors of jobs."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_client_sim.training.model_folder import ModelDigest
from keyflock_client_sim.training.pool import JobError
from keyflock_client_sim.training.process import WorkerDiedError
from keyflock_server.protocol.messages import FailureCause

T = TypeVar("T")


class PublishedModels:
    """The models that phones have downloaded, as the workers know them.

    Args:
        publish: Publishes a model's bytes to all workers.
    """

    def __init__(self, publish: Callable[[bytes], ModelDigest]) -> None:
        self._publish = publish
        #: The digest in the model folder by the download's: a phone may have packed its bytes in another way.
        self._digests: dict[bytes, ModelDigest] = {}

    def store(self, digest: bytes, body: bytes) -> None:
        """Publish a downloaded model; the same one again is no work."""
        if digest not in self._digests:
            self._digests[digest] = self._publish(body)

    def digest_of(self, download: bytes) -> ModelDigest:
        """Return the digest in the model folder of the download that has this one."""
        return self._digests.get(download, ModelDigest(download.hex()))


async def worker_result(work: Awaitable[T]) -> T:
    """Return the result of a worker's job; raises TrainingError if the worker died or the job failed."""
    try:
        return await work
    except WorkerDiedError as error:
        raise TrainingError(FailureCause.OUT_OF_MEMORY, str(error)) from None
    except JobError as error:
        raise TrainingError(FailureCause.TRAINING_FAILED, str(error)) from None

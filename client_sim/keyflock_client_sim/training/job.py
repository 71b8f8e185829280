"""A job is a value that is sent to a worker process and does its work there."""

from typing import Protocol, TypeVar

from keyflock_client_sim.training.model_folder import ModelFolder

AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Job(Protocol[AnswerT_co]):
    """A picklable value with all that its work needs, apart from model bodies, which are in the model folder.

    Its class must be importable by name in the worker, so it lives in a module of the product.
    """

    def run(self, models: ModelFolder) -> AnswerT_co:
        """Do the work in the worker process; the result or the exception is sent back."""
        ...

"""What a worker runs: a value that crosses a process border and does its work there."""

from typing import Protocol, TypeVar

from keyflock_client_sim.training.shelf import ModelShelf

AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Job(Protocol[AnswerT_co]):
    """A picklable value with all its work needs, apart from model bodies, which lie on the shelf.

    Its class must be importable by name in the worker, so it lives in a module of the product.
    """

    def run(self, shelf: ModelShelf) -> AnswerT_co:
        """Does the work in the worker process; what it returns or raises crosses back."""
        ...

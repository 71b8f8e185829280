"""What operators are told of an error that keeps a task from going on."""

from typing import Final

from keyflock_server.aggregation.optimizer_errors import CorruptedOptimizerState, OptimizerMismatch
from keyflock_server.releases.ema import CorruptedAverage
from keyflock_server.storage.errors import StorageError

_QUOTABLE_ERRORS: Final = (StorageError, CorruptedOptimizerState, OptimizerMismatch, CorruptedAverage)


def error_text(error: Exception) -> str:
    """Return one sentence for an operator. Only our own errors are quoted: others might quote numbers."""
    return (
        str(error)
        if isinstance(error, _QUOTABLE_ERRORS)
        else f"{type(error).__name__}; the log has the traceback."
    )

"""The progress of pre-training, as a progress bar shows it and as a state file stores it."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingProgress:
    """The progress of pre-training at one moment."""

    #: The share of the training that is done, 0 to 1.
    ratio: float
    step: int
    #: Passes over the text.
    epochs: float
    elapsed_s: float
    #: The mean loss of the last steps, nats a target; under a candidate softmax an estimate.
    loss: float
    #: Recall@1 on users held out of the text; None: not measured this time.
    recall_at_1: float | None


class StateError(ValueError):
    """A state file cannot be continued; the message is one line and says what to do."""


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """The state that a killed pre-training goes on from."""

    #: The ``PretrainingSpec.key``.
    order: str
    elapsed_s: float
    #: The bytes of ``PretrainingState.to_bytes``.
    state: bytes


def save_state(saved: SavedState, path: Path) -> None:
    """Write the state; a reader sees the whole of it or the one before."""
    write_atomically(msgspec.msgpack.encode(saved), path)


def load_state(path: Path, *, spec_key: str) -> SavedState | None:
    """Return the state to go on from; None where there is none.

    Raises:
        StateError: The file is of another spec, or no state at all.
    """
    try:
        saved = msgspec.msgpack.decode(path.read_bytes(), type=SavedState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StateError(f"{path}: not a state of pre-training; begin anew with --no-resume") from error
    if saved.order != spec_key:
        raise StateError(f"{path}: belongs to another text, size or plan; begin anew with --no-resume")
    return saved


def write_atomically(content: bytes, path: Path) -> None:
    """Replace a file atomically: no reader, and no power cut, ever meets a half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

"""How far pre-training is, as a value: what a progress bar shows and what a state file keeps."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of pre-training."""

    #: Share of the training that is behind, 0 to 1.
    ratio: float
    step: int
    #: Passes over the text.
    epochs: float
    elapsed_s: float
    #: Mean loss of the last stretch, nats a target; under a candidate softmax an estimate.
    loss: float
    #: On users held out of the text, percent of their words suggested first; None: not measured this time.
    recall_at_1: float | None


class StateError(ValueError):
    """A state file that cannot be continued; the message is one line and says what to do."""


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a killed pre-training goes on from."""

    #: ``PretrainingOrder.key`` of what was ordered.
    order: str
    elapsed_s: float
    #: ``PretrainingState.to_bytes``.
    state: bytes


def save_state(saved: SavedState, path: Path) -> None:
    """Writes the state; a reader sees the whole of it or the one before."""
    write_whole(msgspec.msgpack.encode(saved), path)


def load_state(path: Path, *, order: str) -> SavedState | None:
    """The state to go on from; None where there is none.

    Raises:
        StateError: The file is of another order, or no state at all.
    """
    try:
        saved = msgspec.msgpack.decode(path.read_bytes(), type=SavedState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StateError(f"{path}: not a state of pre-training; begin anew with --no-resume") from error
    if saved.order != order:
        raise StateError(f"{path}: belongs to another text, size or plan; begin anew with --no-resume")
    return saved


def write_whole(content: bytes, path: Path) -> None:
    """Replaces a file so that no reader, and no power cut, ever meets a half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

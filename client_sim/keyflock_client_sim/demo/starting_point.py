"""Version 0: pre-trained on public text, or given, or knowing nothing but how frequent words are.

What is asked for is looked up before anything is started (``starting_point``); making it may take a minute
and the worker pool (``version_0``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jax
import numpy as np

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import Split
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.demo.options import BUILTIN, NONE, DemoError, DemoOptions
from keyflock_client_sim.pretraining.kept import pretrained
from keyflock_client_sim.pretraining.order import DEFAULT_EPOCHS, PretrainingOrder
from keyflock_client_sim.pretraining.progress import Progress
from keyflock_client_sim.pretraining.public_text import SEQUENCE_LENGTH, anchor_of
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint, CheckpointError
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.network import init_params
from keyflock_models.public_vocabulary import public_vocabulary
from keyflock_models.sequences import encode_messages

#: One pass: phones write what the plays' public third is made of, and a version 0 that has learned
#: all there is to learn would leave nothing for them to show.
BUILTIN_EPOCHS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Untrained:
    """Fresh parameters, with the frequencies of the public word list as output bias."""

    config: ModelConfig
    seed: int
    #: Public text, of which the anchor text is a slice.
    public: tuple[UserText, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """The model."""
        vocabulary = public_vocabulary(size=self.config.vocabulary_size)
        params = init_params(self.config, jax.random.key(self.seed), vocabulary.log_frequencies)
        weights = ParamLayout.of(self.config).flatten(params)
        rows = [encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH) for user in self.public]
        anchor = anchor_of(np.concatenate(rows), vocabulary) if rows else None
        return Checkpoint(self.config, vocabulary, weights, {"pretrained_on": "nothing"}, anchor)


StartingPoint = Checkpoint | PretrainingOrder | Untrained


def starting_point(options: DemoOptions, corpus: Corpus, parts: Split) -> StartingPoint:
    """What ``options.pretrain`` means.

    Args:
        options: The demo.
        corpus: The phones' corpus.
        parts: Its split; the public part is what ``builtin`` learns from.
    Raises:
        DemoError: the file is no checkpoint, or there is no such size.
        CorpusError: the text to pre-train on cannot be read.
    """
    if options.starts_from_checkpoint:
        return read_checkpoint(Path(options.pretrain))
    try:
        config = ModelConfig.named(options.size)
    except ValueError as error:
        raise DemoError(f"--size: {error}.") from None
    if options.pretrain == NONE:
        return Untrained(config, options.seed, parts.public)
    if options.pretrain == BUILTIN:
        name, users, epochs = f"{corpus.name}, public part", parts.public, BUILTIN_EPOCHS
    else:
        public = read_corpus(options.pretrain)
        name, users, epochs = public.name, public.users, DEFAULT_EPOCHS
    return PretrainingOrder(
        corpus=name,
        users=users,
        config=config,
        seed=options.seed,
        seconds=options.pretrain_s,
        epochs=epochs,
    )


async def version_0(
    start: StartingPoint,
    pool: WorkerPool,
    *,
    cache: Path,
    clock: Callable[[], float],
    on_progress: Callable[[Progress], None],
) -> Checkpoint:
    """The checkpoint.

    Args:
        start: What is asked for.
        pool: Trains.
        cache: Where pre-trained models are kept for the next demo.
        clock: Seconds that only go forward.
        on_progress: Told while there is training.
    """
    match start:
        case Checkpoint():
            return start
        case Untrained():
            return start.checkpoint()
        case PretrainingOrder():
            return await pretrained(start, pool, folder=cache, clock=clock, on_progress=on_progress)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        DemoError: there is none.
    """
    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}.") from None
    except CheckpointError as error:
        raise DemoError(f"{path}: {error}.") from None

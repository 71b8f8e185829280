"""Version 0 is pre-trained on public text, or given, or knows nothing but how frequent words are.

The options are resolved before anything is started (``starting_point``); making the model may take a minute
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
from keyflock_client_sim.pretraining.checkpoint_cache import load_or_pretrain
from keyflock_client_sim.pretraining.progress import PretrainingProgress
from keyflock_client_sim.pretraining.public_text import SEQUENCE_LENGTH, anchor_of
from keyflock_client_sim.pretraining.spec import DEFAULT_EPOCHS, PretrainingSpec
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.options import BUILTIN, NONE, DemoError, DemoOptions
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.sequences import encode_messages

#: One pass only: phones hold text of the same kind as the public third, and a version 0 that has learned
#: all of it would leave nothing for them to show.
BUILTIN_EPOCHS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Untrained:
    """Fresh parameters, with the frequencies of the public word list as output bias."""

    config: ModelConfig
    seed: int
    #: The public text; the anchor text is a slice of it.
    public: tuple[UserText, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """Make the model."""
        vocabulary = public_vocabulary(size=self.config.vocabulary_size)
        params = init_params(self.config, jax.random.key(self.seed), vocabulary.log_frequencies)
        weights = ParamLayout.for_config(self.config).flatten(params)
        rows = [encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH) for user in self.public]
        anchor = anchor_of(np.concatenate(rows), vocabulary) if rows else None
        return Checkpoint(self.config, vocabulary, weights, {"pretrained_on": "nothing"}, anchor)


StartingPoint = Checkpoint | PretrainingSpec | Untrained


def starting_point(options: DemoOptions, corpus: Corpus, parts: Split) -> StartingPoint:
    """Resolve ``options.pretrain``.

    Args:
        options: The options of the demo.
        corpus: The phones' corpus.
        parts: The split of the corpus; ``builtin`` trains on its public part.
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
    return PretrainingSpec(
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
    on_progress: Callable[[PretrainingProgress], None],
) -> Checkpoint:
    """Make the checkpoint of version 0.

    Args:
        start: The starting point.
        pool: Trains.
        cache: The folder that caches pre-trained models for the next demo.
        clock: Seconds that only go forward.
        on_progress: Called while there is training.
    """
    match start:
        case Checkpoint():
            return start
        case Untrained():
            return start.checkpoint()
        case PretrainingSpec():
            return await load_or_pretrain(start, pool, folder=cache, clock=clock, on_progress=on_progress)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint in a file.

    Raises:
        DemoError: there is none.
    """
    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}.") from None
    except CheckpointError as error:
        raise DemoError(f"{path}: {error}.") from None

"""Version 0: pre-trained on public text, or given, or knowing nothing but how frequent words are."""

from collections.abc import Callable
from pathlib import Path

import jax

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import Split
from keyflock_client_sim.demo.options import BUILTIN, NONE, DemoError, DemoOptions
from keyflock_client_sim.pretraining.kept import pretrained
from keyflock_client_sim.pretraining.order import DEFAULT_EPOCHS, PretrainingOrder
from keyflock_client_sim.pretraining.progress import Progress
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint, CheckpointError
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.network import init_params
from keyflock_models.public_vocabulary import public_vocabulary


async def starting_point(
    options: DemoOptions,
    corpus: Corpus,
    parts: Split,
    pool: WorkerPool,
    *,
    cache: Path,
    clock: Callable[[], float],
    on_progress: Callable[[Progress], None],
) -> Checkpoint:
    """The checkpoint that ``options.pretrain`` means.

    Args:
        options: The demo.
        corpus: The phones' corpus.
        parts: Its split; the public part is what ``builtin`` learns from.
        pool: Trains.
        cache: Where pre-trained models are kept for the next demo.
        clock: Seconds that only go forward.
        on_progress: Told while there is training.
    Raises:
        DemoError: the file is no checkpoint, or there is no such size.
        CorpusError: the text to pre-train on cannot be read.
    """
    if options.starts_from_checkpoint:
        return _read(Path(options.pretrain))
    config = _config(options.size)
    if options.pretrain == NONE:
        return _untrained(config, options.seed)
    order = pretraining_order(options, corpus, parts, config)
    return await pretrained(order, pool, folder=cache, clock=clock, on_progress=on_progress)


def pretraining_order(
    options: DemoOptions, corpus: Corpus, parts: Split, config: ModelConfig
) -> PretrainingOrder:
    """What is to be trained where ``options.pretrain`` names text."""
    if options.pretrain == BUILTIN:
        name, users = f"{corpus.name}, public part", parts.public
    else:
        public = read_corpus(options.pretrain)
        name, users = public.name, public.users
    return PretrainingOrder(
        corpus=name,
        users=users,
        config=config,
        seed=options.seed,
        seconds=options.pretrain_s,
        epochs=DEFAULT_EPOCHS,
    )


def _config(size: str) -> ModelConfig:
    try:
        return ModelConfig.named(size)
    except ValueError as error:
        raise DemoError(f"--size: {error}.") from None


def _untrained(config: ModelConfig, seed: int) -> Checkpoint:
    vocabulary = public_vocabulary(size=config.vocabulary_size)
    params = init_params(config, jax.random.key(seed), vocabulary.log_frequencies)
    return Checkpoint(config, vocabulary, ParamLayout.of(config).flatten(params), {"made_by": "nobody"})


def _read(path: Path) -> Checkpoint:
    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise DemoError(f"--pretrain {path}: {error.strerror}.") from None
    except CheckpointError as error:
        raise DemoError(f"--pretrain {path}: {error}.") from None

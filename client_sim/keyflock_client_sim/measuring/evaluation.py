"""A model measured on users: their text dealt out to the workers, their figures put together again."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.measuring.evaluation_job import EvaluateUsers, SimulateTyping
from keyflock_client_sim.measuring.scorers import PublishedModel, ScorerSource
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.shelf import ModelDigest
from keyflock_compression import encode_weights
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.evaluation import Evaluation
from keyflock_models.keystrokes import KeystrokeSavings
from keyflock_models.layout import ParamLayout
from keyflock_models.per_user import PerUser
from keyflock_models.vocabulary import Vocabulary

#: By user, rows of token ids: ``keyflock_models.sequences.encode_messages``.
RowsOfUsers = Mapping[str, npt.NDArray[np.int32]]

#: Words of each user in the typing simulation, which is slow: enough for a figure of each user's own.
TYPED_WORDS_PER_USER: Final = 100


async def evaluate(pool: WorkerPool, source: ScorerSource, sequences: RowsOfUsers) -> Evaluation:
    """How well a model foresees the words of each of these users.

    Guarantees:
        The same figures, whatever the number of workers; users in the order of ``sequences``.
    """
    shares = _dealt(sequences, pool.workers)
    jobs = (pool.run(EvaluateUsers(source, {user: sequences[user] for user in share})) for share in shares)
    parts = await asyncio.gather(*jobs)
    measures = [field.name for field in fields(Evaluation) if field.name != "users"]
    order = _order([user for part in parts for user in part.users], sequences)
    return Evaluation(
        users=tuple(sequences),
        **{name: _joined([getattr(part, name) for part in parts], order) for name in measures},
    )


async def evaluate_version(
    pool: WorkerPool,
    model: ModelDigest,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    sequences: RowsOfUsers,
) -> Evaluation:
    """``evaluate`` of a model version whose downloaded bytes were published as ``model``."""
    return await evaluate(pool, PublishedModel(model, config, vocabulary), sequences)


async def savings(
    pool: WorkerPool, source: ScorerSource, sequences: RowsOfUsers, letters: RowsOfUsers, *, seed: int
) -> KeystrokeSavings:
    """How many keystrokes a model spares each of these users, on a sample of each one's words.

    Args:
        pool: Does the typing.
        source: The model.
        sequences: The users' text.
        letters: ``letters_in_messages`` of the same messages.
        seed: Decides the sample.
    """
    jobs = (
        pool.run(
            SimulateTyping(
                source,
                {user: sequences[user] for user in share},
                {user: letters[user] for user in share},
                TYPED_WORDS_PER_USER,
                seed,
            )
        )
        for share in _dealt(sequences, pool.workers)
    )
    parts = await asyncio.gather(*jobs)
    order = _order([user for part in parts for user in part.users], sequences)
    return KeystrokeSavings(
        tuple(sequences),
        _joined([part.all for part in parts], order),
        _joined([part.before_typing for part in parts], order),
    )


def published(pool: WorkerPool, checkpoint: Checkpoint) -> PublishedModel:
    """A checkpoint at its full precision, on the workers' shelf."""
    body = encode_weights(checkpoint.weights, ParamLayout.of(checkpoint.config), precision="float32")
    return PublishedModel(pool.publish(body), checkpoint.config, checkpoint.vocabulary)


def _dealt(sequences: RowsOfUsers, count: int) -> list[list[str]]:
    """Users dealt out so that every share has about the same number of rows."""
    shares: list[list[str]] = [[] for _ in range(max(1, min(count, len(sequences))))]
    rows = [0] * len(shares)
    for user in sorted(sequences, key=lambda user: (-len(sequences[user]), user)):
        least = rows.index(min(rows))
        shares[least].append(user)
        rows[least] += len(sequences[user])
    return shares


def _order(found: Sequence[str], wanted: Iterable[str]) -> npt.NDArray[np.intp]:
    place = {user: index for index, user in enumerate(found)}
    return np.array([place[user] for user in wanted], np.intp)


def _joined(parts: Sequence[PerUser], order: npt.NDArray[np.intp]) -> PerUser:
    return PerUser(
        np.concatenate([part.numerator for part in parts])[order],
        np.concatenate([part.denominator for part in parts])[order],
    )

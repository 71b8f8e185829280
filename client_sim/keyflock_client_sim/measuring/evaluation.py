"""This module evaluates a model on users: each worker evaluates a part, and the results are joined."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.measuring.evaluation_job import EvaluateUsers, SimulateTyping
from keyflock_client_sim.measuring.scorers import PublishedModel, ScorerSource
from keyflock_client_sim.training.model_folder import ModelDigest
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_compression import encode_weights
from keyflock_models.evaluation.keystrokes import KeystrokeSavings
from keyflock_models.evaluation.measures import Evaluation
from keyflock_models.evaluation.per_user import PerUser
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary

#: Rows of token ids by user: ``keyflock_models.text.sequences.encode_messages``.
UserRows = Mapping[str, npt.NDArray[np.int32]]

#: Words of each user in the typing simulation, which is slow: enough for one figure a user.
TYPED_WORDS_PER_USER: Final = 100


async def evaluate(pool: WorkerPool, source: ScorerSource, sequences: UserRows) -> Evaluation:
    """Measure how well a model predicts the words of each of these users.

    Guarantees:
        The same figures, whatever the number of workers; users in the order of ``sequences``.
    """
    shares = _partition_users(sequences, pool.workers)
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
    sequences: UserRows,
) -> Evaluation:
    """Evaluate a model version whose downloaded bytes were published as ``model``."""
    return await evaluate(pool, PublishedModel(model, config, vocabulary), sequences)


async def keystroke_savings(
    pool: WorkerPool, source: ScorerSource, sequences: UserRows, letters: UserRows, *, seed: int
) -> KeystrokeSavings:
    """Measure how many keystrokes a model saves each of these users, on a sample of each one's words.

    Args:
        pool: Simulates the typing.
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
        for share in _partition_users(sequences, pool.workers)
    )
    parts = await asyncio.gather(*jobs)
    order = _order([user for part in parts for user in part.users], sequences)
    return KeystrokeSavings(
        tuple(sequences),
        _joined([part.all for part in parts], order),
        _joined([part.before_typing for part in parts], order),
    )


def publish_checkpoint(pool: WorkerPool, checkpoint: Checkpoint) -> PublishedModel:
    """Publish a checkpoint at its full precision to the workers."""
    body = encode_weights(checkpoint.weights, ParamLayout.for_config(checkpoint.config), precision="float32")
    return PublishedModel(pool.publish(body), checkpoint.config, checkpoint.vocabulary)


def _partition_users(sequences: UserRows, count: int) -> list[list[str]]:
    """Divide the users so that every share has about the same number of rows."""
    shares: list[list[str]] = [[] for _ in range(max(1, min(count, len(sequences))))]
    rows = [0] * len(shares)
    for user in sorted(sequences, key=lambda user: (-len(sequences[user]), user)):
        smallest = rows.index(min(rows))
        shares[smallest].append(user)
        rows[smallest] += len(sequences[user])
    return shares


def _order(found: Sequence[str], wanted: Iterable[str]) -> npt.NDArray[np.intp]:
    place = {user: index for index, user in enumerate(found)}
    return np.array([place[user] for user in wanted], np.intp)


def _joined(parts: Sequence[PerUser], order: npt.NDArray[np.intp]) -> PerUser:
    return PerUser(
        np.concatenate([part.numerator for part in parts])[order],
        np.concatenate([part.denominator for part in parts])[order],
    )

"""A model version measured on users: their text cut among the workers, their figures put together again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.measuring.evaluation_job import EvaluateVersion
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.shelf import ModelDigest
from keyflock_compression import encode_weights
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.evaluation import Evaluation
from keyflock_models.layout import ParamLayout
from keyflock_models.per_user import PerUser
from keyflock_models.vocabulary import Vocabulary

#: By user, rows of token ids: ``keyflock_models.sequences.encode_messages``.
SequencesOfUsers = Mapping[str, npt.NDArray[np.int32]]

#: Shares for each worker: few enough that rows of like length still meet, enough that none waits long.
SHARES_PER_WORKER: Final = 2


async def evaluate_version(
    pool: WorkerPool,
    model: ModelDigest,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    sequences: SequencesOfUsers,
) -> Evaluation:
    """What a published model is worth to each of these users.

    Args:
        pool: Does the arithmetic.
        model: What ``pool.publish`` gave for the model's bytes: the very bytes that phones download, so that
            the figures hold for what phones have.
        config: The model's size.
        vocabulary: Its words.
        sequences: The users' text.

    Guarantees:
        The same figures, whatever the number of workers; users in the order of ``sequences``.
    """
    shares = _shares(sequences, SHARES_PER_WORKER * pool.workers)
    evaluations = await asyncio.gather(
        *(
            pool.run(EvaluateVersion(model=model, config=config, vocabulary=vocabulary, sequences=share))
            for share in shares
        )
    )
    return joined(evaluations, tuple(sequences))


async def evaluate_checkpoint(
    pool: WorkerPool, checkpoint: Checkpoint, sequences: SequencesOfUsers
) -> Evaluation:
    """``evaluate_version`` of a checkpoint, at its full precision."""
    body = encode_weights(checkpoint.weights, ParamLayout.of(checkpoint.config), precision="float32")
    return await evaluate_version(
        pool,
        pool.publish(body),
        config=checkpoint.config,
        vocabulary=checkpoint.vocabulary,
        sequences=sequences,
    )


def joined(evaluations: Sequence[Evaluation], users: Sequence[str]) -> Evaluation:
    """Evaluations of disjoint users as one, in this order of users."""
    found = [user for evaluation in evaluations for user in evaluation.users]
    place = {user: index for index, user in enumerate(found)}
    order = np.array([place[user] for user in users], np.intp)

    def together(measure: str) -> PerUser:
        parts: list[PerUser] = [getattr(evaluation, measure) for evaluation in evaluations]
        return PerUser(
            np.concatenate([part.numerator for part in parts])[order],
            np.concatenate([part.denominator for part in parts])[order],
        )

    measures = {field.name: together(field.name) for field in fields(Evaluation) if field.name != "users"}
    return Evaluation(users=tuple(users), **measures)


def _shares(sequences: SequencesOfUsers, count: int) -> list[SequencesOfUsers]:
    """Users dealt out so that every share has about the same number of rows."""
    shares: list[dict[str, npt.NDArray[np.int32]]] = [{} for _ in range(min(count, len(sequences)))]
    rows = [0] * len(shares)
    for user in sorted(sequences, key=lambda user: (-len(sequences[user]), user)):
        least = rows.index(min(rows))
        shares[least][user] = sequences[user]
        rows[least] += len(sequences[user])
    return list(shares)

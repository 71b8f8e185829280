"""The measures of a model for each user, whatever kind of model it is.

The targets of each measure:

* `recall_at_k`: words and OOV; an OOV is a miss for every model, as it is on a phone. Only displayable words
  are ranked.
* `mrr_at_10`: the same targets; 1/rank, and 0 past the tenth rank.
* `oov_rate`: the share of OOVs among them, which bounds recall.
* `acc_masked`: words only; the argmax over the whole vocabulary, special tokens included, has to be the
  target. It is for comparison with published figures (Reddi et al. 2021, arXiv:2003.00295), not with what a
  user sees.
* `nll` and `perplexity`: words only, under the softmax over the whole vocabulary.

PAD, BOS and EOS are targets of no measure, because nobody types them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keyflock_models.arrays import F64, I32, I64, Bool
from keyflock_models.evaluation.per_user import PerUser
from keyflock_models.evaluation.scoring import Scorer, TokenScores
from keyflock_models.text.special_tokens import EOS, OOV


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The measures of one model over the same users in the same order."""

    users: tuple[str, ...]
    recall_at_1: PerUser
    recall_at_3: PerUser
    mrr_at_10: PerUser
    acc_masked: PerUser
    oov_rate: PerUser
    #: Nats per word.
    nll: PerUser

    @property
    def perplexity(self) -> float:
        """The perplexity over all words of all users."""
        return float(np.exp(self.nll.micro))

    @property
    def perplexity_of_users(self) -> F64:
        """The perplexity of each user with a word in the vocabulary."""
        return np.exp(self.nll.values)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return every measure's summary over users by name, and that of the perplexity."""
        measures = ("recall_at_1", "recall_at_3", "mrr_at_10", "acc_masked", "oov_rate", "nll")
        each: dict[str, PerUser] = {name: getattr(self, name) for name in measures}
        values = self.perplexity_of_users
        perplexity = PerUser(values, np.ones_like(values)).summary() | {"micro": self.perplexity}
        return {name: measure.summary() for name, measure in each.items()} | {"perplexity": perplexity}


def evaluate(scorer: Scorer, sequences_of_users: Mapping[str, I32]) -> Evaluation:
    """Measure a model on the sequences of each user.

    All users' sequences are scored in one call, so that the scorer can put rows of like length together.

    Args:
        scorer: The model.
        sequences_of_users: Rows of `encode_messages` by user, shape (N, L + 1), with one L for all.
    Edge cases:
        user without a sequence -> in `users`, with denominators of 0
    """
    users = tuple(sequences_of_users)
    rows = [sequences_of_users[user] for user in users]
    owner = np.repeat(np.arange(len(users)), [len(r) for r in rows])
    if not owner.size:
        nothing = PerUser(np.zeros(len(users)), np.zeros(len(users)))
        return Evaluation(users, nothing, nothing, nothing, nothing, nothing, nothing)
    scores = scorer.score(np.concatenate(rows))
    return summed_by_user(users, owner[scores.row], scores)


def summed_by_user(users: tuple[str, ...], owner: I64, scores: TokenScores) -> Evaluation:
    """Return the evaluation of scored targets by user.

    Args:
        users: The users' names.
        owner: Index into users of each target. Shape (T,).
        scores: The scores of the targets.
    """

    def total(per_target: Bool | F64) -> F64:
        return np.bincount(owner, weights=per_target, minlength=len(users)).astype(np.float64)

    is_oov = scores.target == OOV
    is_word = ~is_oov & (scores.target != EOS)
    counted, words = total(is_word | is_oov), total(is_word)
    reciprocal = np.where(is_word & (scores.rank < 10), 1.0 / (1.0 + scores.rank), 0.0)
    return Evaluation(
        users=users,
        recall_at_1=PerUser(total(is_word & (scores.rank < 1)), counted),
        recall_at_3=PerUser(total(is_word & (scores.rank < 3)), counted),
        mrr_at_10=PerUser(total(reciprocal), counted),
        acc_masked=PerUser(total(is_word & scores.is_argmax), words),
        oov_rate=PerUser(total(is_oov), counted),
        nll=PerUser(total(np.where(is_word, scores.nll, 0.0)), words),
    )

"""Suggestions for a batch of queries: one call of the network, then only words that can be the best.

A word that the user never typed has the network's probability times the network's share; so of all such words
only the network's own k best can be among the k best of the blend. Everything else is among the words that
the user has typed, a few hundred, and of these only those above the k-th of the former. Where the history
does not know the context and no letter is typed yet, the network answers alone
(`blend.next_word_mixtures`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.strip import SLOTS, network_slots
from keyflock_models.personal.typed_secrets import words_without_secrets
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.trunk_predictions import BLOCK_WORDS, CONTEXT_LENGTHS, TrunkPredictions
from keyflock_models.serving.typed_words import PersonalizedRow, typed_words
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_models.text.special_tokens import BOS, OOV

if TYPE_CHECKING:
    from keyflock_models.serving.batched_trunk import BatchedTrunk  # it loads JAX

#: Maximum number of a context's ids that are read, BOS included.
MAX_CONTEXT_IDS: Final = CONTEXT_LENGTHS[-1]

#: Words and their probabilities.
ScoredWords = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class SuggestionQuery:
    """A request for suggestions by one keyboard."""

    #: The message so far.
    context: str
    #: The letters of the word that is being typed.
    prefix: str = ""
    count: int = 3
    #: The user's profile; None asks the network alone.
    profile: ServingProfile | None = None
    #: Whether to ask the user's own experts without the network, whatever the gate says.
    is_personal: bool = False


@dataclass(frozen=True, slots=True)
class SuggestionResult:
    """The suggested words, most probable first, and whether the profile took part."""

    words: ScoredWords
    is_personal: bool


def suggest_batch(
    queries: Sequence[SuggestionQuery], trunk: "BatchedTrunk", index: VocabularyIndex
) -> list[SuggestionResult]:
    """Return the results of all queries, which equal those of `PersonalModel.suggest` one at a time.

    Args:
        queries: The queries, at most the largest of `trunk_predictions.BATCH_SIZES`.
        trunk: The model version.
        index: The index of its vocabulary, with which the profiles were made.
    """
    contexts, personalized, heads = _prepare(queries, index, trunk.space)
    block = trunk.predict(contexts, heads)
    best, shares = _best_of_network(block, max(query.count for query in queries), index)
    found: list[ScoredWords] = []
    for row, query in enumerate(queries):
        if query.prefix:
            found.append(_completions(query, block.probabilities[row], personalized.get(row), index))
        else:
            pairs = zip(best[row].tolist(), shares[row].tolist(), strict=True)
            words = [(index.vocabulary.words[one], share) for one, share in pairs if share >= 0.0]
            found.append(tuple(words[: query.count]))
    without_prefix = [one for row, one in personalized.items() if not queries[row].prefix]
    for row, own in _blended(without_prefix, queries, block, best, shares, index).items():
        found[row] = own
    return [
        SuggestionResult(words, is_personal=row in personalized or heads[row] is not None)
        for row, words in enumerate(found)
    ]


def _prepare(
    queries: Sequence[SuggestionQuery], index: VocabularyIndex, space: str
) -> tuple[list[list[int]], dict[int, PersonalizedRow], list[PersonalHead | None]]:
    """Return each query's ids for the network, the rows that use a profile, and each row's head."""
    size = len(index.vocabulary)
    contexts: list[list[int]] = []
    personalized: dict[int, PersonalizedRow] = {}
    heads: list[PersonalHead | None] = []
    for row, query in enumerate(queries):
        profile = query.profile
        if profile is None:
            ids = index.vocabulary.encode(words_without_secrets(query.context, index.vocabulary))
        else:
            ids = profile.words.encode(index.vocabulary, query.context)
        contexts.append([BOS, *(one if one < size else OOV for one in ids)][-MAX_CONTEXT_IDS:])
        heads.append(None)
        if profile is not None and (profile.blend_slots or query.is_personal):
            prediction = profile.history.predict_sparse(*[BOS, BOS, *ids][-2:])
            if prediction is not None:
                has_letters = bool(query.prefix)
                mixture = profile.mixture(
                    prediction.match, space, is_personal=query.is_personal, has_letters=has_letters
                )
                heads[row] = profile.head_for(mixture, space)
                if prediction.match or has_letters or query.is_personal:
                    fills_all = has_letters or query.is_personal
                    blend_slots = SLOTS if fills_all else profile.blend_slots
                    personalized[row] = PersonalizedRow(row, profile, prediction, mixture, blend_slots)
    return contexts, personalized, heads


def _best_of_network(block: TrunkPredictions, count: int, index: VocabularyIndex) -> tuple[I32, F32]:
    """Return the best words that may be shown, and their probabilities, best first. Shape (B, count) each.

    The probability is below 0 where there are fewer such words.
    """
    size = block.probabilities.shape[1]
    blocks = _largest(block.best_of_block, count)
    columns = (blocks[:, :, None] * BLOCK_WORDS + np.arange(BLOCK_WORDS)).reshape(len(blocks), -1)
    inside = np.minimum(columns, size - 1)
    offered = np.take_along_axis(block.probabilities, inside, axis=1)
    offered = np.where((columns < size) & index.is_shown[inside], offered, np.float32(-1.0))
    at = _largest(offered, count)
    ids, shares = np.take_along_axis(columns, at, axis=1), np.take_along_axis(offered, at, axis=1)
    order = np.lexsort((ids, -shares), axis=1)
    return (
        np.take_along_axis(ids, order, axis=1).astype(np.int32),
        np.take_along_axis(shares, order, axis=1),
    )


def _largest(values: F32, count: int) -> np.ndarray:
    """Return the indices of the ``count`` largest of each row, in no order."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]


def _blended(
    rows: Sequence[PersonalizedRow],
    queries: Sequence[SuggestionQuery],
    block: TrunkPredictions,
    best: I32,
    shares: F32,
    index: VocabularyIndex,
) -> dict[int, ScoredWords]:
    """Return the words of the rows that use a profile."""
    if not rows:
        return {}
    typed = typed_words(rows, block.probabilities)
    batch_rows = np.array([one.row for one in rows])
    network_shares = np.array([one.network_share for one in rows], np.float32)
    untyped = network_shares[:, None] * shares[batch_rows]
    chosen = typed.best(best.shape[1], np.maximum(untyped.min(axis=1), 0.0), best[batch_rows])
    of_network = np.repeat(np.arange(len(rows)), best.shape[1])
    owner = np.concatenate([typed.owner[chosen], of_network])
    ids = np.concatenate([typed.ids[chosen], best[batch_rows].ravel()])
    values = np.concatenate([typed.probability[chosen], untyped.ravel()])
    order = np.lexsort((ids, -values, owner))
    ranked: list[dict[int, float]] = [{} for _ in rows]
    for at, one, value in zip(
        owner[order].tolist(), ids[order].tolist(), values[order].tolist(), strict=True
    ):
        if value >= 0.0:
            # A typed word is here twice; the second value is the network's share of it alone.
            ranked[at].setdefault(one, value)
    found = {}
    for personalized_row, words in zip(rows, ranked, strict=True):
        row, count = personalized_row.row, queries[personalized_row.row].count
        reserved = network_slots(personalized_row.blend_slots, count)
        of_trunk = best[row, :reserved][shares[row, :reserved] >= 0.0].tolist()
        found[row] = tuple(
            (_word(one, personalized_row.profile, index), words[one])
            for one in _fill_strip(words, of_trunk, count)
        )
    return found


def _fill_strip(ranked: Iterable[int], of_trunk: list[int], count: int) -> list[int]:
    """Return the words of a strip as `strip.fill_strip` does, from the blend's words, best first."""
    room = min(SLOTS, count) - len(of_trunk)
    strip, rest = [], []
    for one in ranked:
        if one in of_trunk:
            strip.append(one)
        elif room > 0:
            room -= 1
            strip.append(one)
        else:
            rest.append(one)
    return (strip + rest)[:count]


def _completions(
    query: SuggestionQuery, network: F32, personalized_row: PersonalizedRow | None, index: VocabularyIndex
) -> ScoredWords:
    """Return the words for a query with a prefix; probabilities are among the words with that prefix."""
    ids = index.with_prefix(query.prefix)
    values = {int(one): float(network[one]) for one in ids}
    profile = None
    if personalized_row is not None:
        profile = personalized_row.profile
        values = {one: personalized_row.network_share * value for one, value in values.items()}
        alone = replace(personalized_row, row=0)
        typed = typed_words([alone], network[None])
        own_words = range(len(index.vocabulary), profile.words.end_id)
        begins = {one for one in own_words if profile.words.word(one).startswith(query.prefix)}
        for one, value in zip(typed.ids.tolist(), typed.probability.tolist(), strict=True):
            if value >= 0.0 and (one in values or one in begins):
                values[one] = value
    total = max(sum(values.values()), 1e-30)
    best = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[: query.count]
    return tuple((_word(one, profile, index), value / total) for one, value in best)


def _word(one: int, profile: ServingProfile | None, index: VocabularyIndex) -> str:
    size = len(index.vocabulary)
    if one < size or profile is None:
        return index.vocabulary.words[one]
    return profile.words.word(one)

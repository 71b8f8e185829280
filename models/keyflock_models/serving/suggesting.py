"""A batch of questions to a batch of answers: one call of the network, and then only what can still win.

A word that the user never typed has the network's probability times the network's share; so of all such words
only the network's own k best can be among the k best of the blend. Everything else is among the words that
the user has typed, a few hundred, and of these only those above the k-th of the former. Where the history
does not know the context and no letter is typed yet, the network answers alone (`blend.between_words`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.strip import SLOTS, anchored
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.trunk_batch import BLOCK, LENGTHS, TrunkBatch, TrunkBlock
from keyflock_models.serving.typed_words import Voice, typed_words
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_models.special_tokens import BOS, OOV
from keyflock_models.tokenizer import tokenize

#: Words of a context that are read, BOS with them.
LONGEST: Final = LENGTHS[-1]

Words = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What one keyboard wants."""

    #: The message so far.
    context: str
    #: The letters of the word that is being typed.
    prefix: str = ""
    count: int = 3
    #: The user's; None asks the network alone.
    profile: ServingProfile | None = None
    #: The user's own experts without the network, whatever the gate says.
    is_personal: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Words, most probable first, and whether the profile had a say."""

    words: Words
    is_personal: bool


def answers(questions: Sequence[Question], trunk: TrunkBatch, index: VocabularyIndex) -> list[Answer]:
    """All answers; equal to those of `PersonalModel.suggest`, one at a time.

    Args:
        questions: At most the largest of `trunk_batch.BATCHES`.
        trunk: The model version.
        index: Of its vocabulary, the one that the profiles were made with.
    """
    contexts, voices, heads = _read(questions, index, trunk.space)
    block = trunk.ask(contexts, heads)
    best, shares = _best_of_network(block, max(question.count for question in questions), index)
    found: list[Words] = []
    for row, question in enumerate(questions):
        if question.prefix:
            found.append(_completions(question, block.probabilities[row], voices.get(row), index))
        else:
            pairs = zip(best[row].tolist(), shares[row].tolist(), strict=True)
            words = [(index.vocabulary.words[one], share) for one, share in pairs if share >= 0.0]
            found.append(tuple(words[: question.count]))
    speaking = [voice for row, voice in voices.items() if not questions[row].prefix]
    for row, own in _blended(speaking, questions, block, best, shares, index).items():
        found[row] = own
    return [
        Answer(words, is_personal=row in voices or heads[row] is not None) for row, words in enumerate(found)
    ]


def _read(
    questions: Sequence[Question], index: VocabularyIndex, space: str
) -> tuple[list[list[int]], dict[int, Voice], list[PersonalHead | None]]:
    """Each question's ids for the network, the rows in which a profile speaks, and with which head."""
    size = len(index.vocabulary)
    contexts: list[list[int]] = []
    voices: dict[int, Voice] = {}
    heads: list[PersonalHead | None] = []
    for row, question in enumerate(questions):
        profile = question.profile
        if profile is None:
            ids = index.vocabulary.encode(tokenize(question.context))
        else:
            ids = profile.words.encode(index.vocabulary, question.context)
        contexts.append([BOS, *(one if one < size else OOV for one in ids)][-LONGEST:])
        heads.append(None)
        if profile is not None and (profile.places or question.is_personal):
            recall = profile.history.recall(*[BOS, BOS, *ids][-2:])
            if recall is not None:
                has_letters = bool(question.prefix)
                mixture = profile.mixture(
                    recall.match, space, is_personal=question.is_personal, has_letters=has_letters
                )
                heads[row] = profile.head_for(mixture, space)
                if recall.match or has_letters or question.is_personal:
                    is_whole = has_letters or question.is_personal
                    places = SLOTS if is_whole else profile.places
                    voices[row] = Voice(row, profile, recall, mixture, places)
    return contexts, voices, heads


def _best_of_network(block: TrunkBlock, count: int, index: VocabularyIndex) -> tuple[I32, F32]:
    """The best words that may be shown, and their probabilities, best first. Shape (B, count) each.

    A probability below 0 stands where there are fewer words than that.
    """
    size = block.probabilities.shape[1]
    blocks = _largest(block.best_of_block, count)
    columns = (blocks[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(len(blocks), -1)
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
    """Where the ``count`` largest of each row are, in no order."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]


def _blended(
    voices: Sequence[Voice],
    questions: Sequence[Question],
    block: TrunkBlock,
    best: I32,
    shares: F32,
    index: VocabularyIndex,
) -> dict[int, Words]:
    """The answers of the rows in which a profile speaks."""
    if not voices:
        return {}
    typed = typed_words(voices, block.probabilities)
    rows = np.array([voice.row for voice in voices])
    worth = np.array([voice.network for voice in voices], np.float32)
    untyped = worth[:, None] * shares[rows]
    chosen = typed.best(best.shape[1], np.maximum(untyped.min(axis=1), 0.0), best[rows])
    of_network = np.repeat(np.arange(len(voices)), best.shape[1])
    voice = np.concatenate([typed.voice[chosen], of_network])
    ids = np.concatenate([typed.ids[chosen], best[rows].ravel()])
    values = np.concatenate([typed.probability[chosen], untyped.ravel()])
    order = np.lexsort((ids, -values, voice))
    ranked: list[dict[int, float]] = [{} for _ in voices]
    for at, one, value in zip(
        voice[order].tolist(), ids[order].tolist(), values[order].tolist(), strict=True
    ):
        if value >= 0.0:
            # A typed word stands here twice; the second time is the network's share of it alone.
            ranked[at].setdefault(one, value)
    found = {}
    for one_voice, words in zip(voices, ranked, strict=True):
        row, count = one_voice.row, questions[one_voice.row].count
        stay = anchored(one_voice.places, count)
        kept = best[row, :stay][shares[row, :stay] >= 0.0].tolist()
        found[row] = tuple(
            (_word(one, one_voice.profile, index), words[one]) for one in _arranged(words, kept, count)
        )
    return found


def _arranged(ranked: Iterable[int], kept: list[int], count: int) -> list[int]:
    """The words of a strip, as `strip.on_strip`: the blend's, best first, but the network keeps some."""
    room = min(SLOTS, count) - len(kept)
    strip, rest = [], []
    for one in ranked:
        if one in kept:
            strip.append(one)
        elif room > 0:
            room -= 1
            strip.append(one)
        else:
            rest.append(one)
    return (strip + rest)[:count]


def _completions(question: Question, network: F32, voice: Voice | None, index: VocabularyIndex) -> Words:
    """The answer to a question with a prefix: probabilities are among the words that begin so."""
    ids = index.beginning(question.prefix)
    values = {int(one): float(network[one]) for one in ids}
    profile = None
    if voice is not None:
        profile = voice.profile
        values = {one: voice.network * value for one, value in values.items()}
        alone = replace(voice, row=0)
        typed = typed_words([alone], network[None])
        own_words = range(len(index.vocabulary), profile.words.end_id)
        begins = {one for one in own_words if profile.words.word(one).startswith(question.prefix)}
        for one, value in zip(typed.ids.tolist(), typed.probability.tolist(), strict=True):
            if value >= 0.0 and (one in values or one in begins):
                values[one] = value
    total = max(sum(values.values()), 1e-30)
    best = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[: question.count]
    return tuple((_word(one, profile, index), value / total) for one, value in best)


def _word(one: int, profile: ServingProfile | None, index: VocabularyIndex) -> str:
    size = len(index.vocabulary)
    if one < size or profile is None:
        return index.vocabulary.words[one]
    return profile.words.word(one)

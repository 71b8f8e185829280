"""One user's evaluation: the personal model learns the earlier messages and is judged on the later ones."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from keyflock_client_sim.experiments.personalisation.arms import (
    ALTERNATIVES,
    ARMS,
    BLEND,
    FINE_TUNED,
    FROZEN,
    GLOBAL,
    PRODUCT,
    STRIPS,
)
from keyflock_client_sim.personalising.learning import (
    HEAD_AFTER,
    fit_user_head,
    head_probabilities,
    judge_and_learn,
)
from keyflock_client_sim.personalising.reader import TrunkReader, TrunkReading
from keyflock_compression import encode_state
from keyflock_models.arrays import F32, F64, I32
from keyflock_models.evaluation.keystrokes import PrefixRanges, letters_until_offered
from keyflock_models.personal.blend import blended
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.personal_model import Judgement, PersonalModel
from keyflock_models.personal.strip import SLOTS
from keyflock_models.text.special_tokens import OOV, SPECIAL_TOKENS


@dataclass(frozen=True, slots=True)
class ArmScores:
    """One arm on one user's later messages: sums over words."""

    at_1: int = 0
    at_3: int = 0
    reciprocal_rank: float = 0.0
    #: Nats, over words of the public vocabulary.
    nll: float = 0.0
    strokes: int = 0


@dataclass(slots=True)
class UserResult:
    """The result of one user."""

    user: str
    earlier_words: int = 0
    #: Words judged, and those of them in the public vocabulary.
    words: int = 0
    public_words: int = 0
    arms: dict[str, ArmScores] = field(default_factory=dict)
    #: Word by word over the later messages: hits in the first three of the product minus those of the trunk.
    differences: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    #: Places of the strip that the gate gave the blend after the earlier messages.
    places: int = 0
    #: Hits of the blend and of the trunk over the earlier messages, as they were typed: the learning curve.
    curve: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    curve_trunk: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    #: Shape (MATCHES, experts): what the blend's weights learned from.
    responsibilities: F64 = field(default_factory=lambda: np.zeros((0, 0)))
    #: The evidence a word: mean gain and its standard deviation, unshrunk.
    gain: tuple[float, float] = (0.0, 0.0)
    full_strokes: int = 0
    strokes_words: int = 0
    #: The size of the model as it would be stored.
    state_bytes: int = 0
    has_head: bool = False
    #: Milliseconds a word of judging and learning, without the trunk's.
    ms_per_word: float = 0.0


def evaluate_user(
    user: str,
    earlier: Sequence[str],
    later: Sequence[str],
    model: PersonalModel,
    trunk: TrunkReader,
    *,
    compares_heads: bool = False,
) -> UserResult:
    """Learn the earlier messages, then judge the later ones.

    Args:
        user: The user's name in the result.
        earlier: Messages to learn from, in their order.
        later: Messages to be judged on.
        model: New, or loaded; changed in place. It gets its head when three quarters are typed, so that the
            last quarter can tell how far the head is to be believed.
        trunk: The shared model.
        compares_heads: Whether the head's alternatives are arms as well.
    """
    figures = UserResult(user)
    readings = list(trunk.read(earlier))
    boundary = round(HEAD_AFTER * len(readings))
    judged = [_learn(model, trunk, one, figures) for one in readings[:boundary]]
    model.set_head(fit_user_head(model, trunk, readings[:boundary], HeadSettings()))
    judged += [_learn(model, trunk, one, figures) for one in readings[boundary:]]
    figures.ms_per_word /= max(1, figures.earlier_words)
    figures.curve = np.concatenate([np.zeros(0), *(one.hits() for one in judged)]).astype(np.int32)
    figures.curve_trunk = np.concatenate([np.zeros(0), *(one.hits(0) for one in judged)]).astype(np.int32)
    figures.places, figures.has_head = model.gate.blend_slots, model.head is not None
    figures.responsibilities = model.weights.responsibilities.copy()
    differences = (figures.curve - figures.curve_trunk).astype(np.float64)
    if differences.size:
        deviation = float(np.sqrt((differences.var() + 1.0 / differences.size) / differences.size))
        figures.gain = float(differences.mean()), deviation
    figures.state_bytes = len(encode_state(model.to_state()))
    _judge_frozen(later, model, trunk, figures)
    if compares_heads:
        _judge_alternatives(earlier, later, model, trunk, readings, figures)
    _judge_online(later, model, trunk, figures)
    return figures


def _learn(model: PersonalModel, trunk: TrunkReader, reading: TrunkReading, figures: UserResult) -> Judgement:
    """Judge and learn one message."""
    began = time.perf_counter()
    judgement = judge_and_learn(model, trunk, reading)
    figures.ms_per_word += 1e3 * (time.perf_counter() - began)
    figures.earlier_words += judgement.words
    return judgement


def _judge_frozen(
    later: Sequence[str], model: PersonalModel, trunk: TrunkReader, figures: UserResult
) -> None:
    learned = model.mixtures()
    size = len(model.vocabulary)
    extended = [*model.vocabulary.words, *(model.words.word(one) for one in range(size, model.words.end_id))]
    is_displayable = np.array([at >= len(SPECIAL_TOKENS) and bool(word) for at, word in enumerate(extended)])
    letters = PrefixRanges(extended, is_displayable)
    for reading in trunk.read(later):
        ids = model.encode(reading.message)
        targets = np.asarray(ids, np.int32)
        predictions = model.predictions(ids)
        head = head_probabilities(model, trunk, reading)
        blocks: dict[str, F32] = {GLOBAL: reading.probabilities}
        for name, weights in ARMS.items():
            blocks[name] = blended(
                reading.probabilities, predictions, weights(learned), model.words.end_id, head
            )
        figures.words += len(ids)
        figures.public_words += int(((targets > OOV) & (targets < size)).sum())
        for name, block in blocks.items():
            _add(figures, name, block, targets, model.ranks(block, targets), size)
        judgement = model.judge(ids, reading.probabilities, head)
        for places, name in enumerate(STRIPS, start=1):
            _add(figures, name, blocks[BLEND], targets, judgement.ranks[places], size)
        _type(figures, blocks, targets, extended, letters)
    frozen = STRIPS[figures.places - 1] if figures.places else GLOBAL
    # With the first letter the whole blend completes the word.
    typed = BLEND if figures.places else GLOBAL
    strokes = figures.arms.get(typed, ArmScores()).strokes
    figures.arms[FROZEN] = replace(figures.arms.get(frozen, ArmScores()), strokes=strokes)


def _judge_alternatives(
    earlier: Sequence[str],
    later: Sequence[str],
    model: PersonalModel,
    trunk: TrunkReader,
    readings: Sequence[TrunkReading],
    figures: UserResult,
) -> None:
    """Judge the alternatives to the head, each alone, fitted on all of the earlier text."""
    size = len(model.vocabulary)
    heads = {name: fit_user_head(model, trunk, readings, settings) for name, settings in ALTERNATIVES.items()}
    for reading in trunk.read(later):
        targets = np.asarray(model.encode(reading.message), np.int32)
        for name, head in heads.items():
            block = reading.probabilities if head is None else trunk.with_head(head, reading.states)
            _add(figures, name, block, targets, model.ranks(block, targets), size)
    for reading in trunk.fine_tuned(earlier, learning_rate=0.1, epochs=5).read(later):
        targets = np.asarray(model.encode(reading.message), np.int32)
        ranks = model.ranks(reading.probabilities, targets)
        _add(figures, FINE_TUNED, reading.probabilities, targets, ranks, size)


def _judge_online(
    later: Sequence[str], model: PersonalModel, trunk: TrunkReader, figures: UserResult
) -> None:
    at_1 = at_3 = 0
    reciprocal = 0.0
    differences: list[I32] = []
    for reading in trunk.read(later):
        ids = model.encode(reading.message)
        judgement = model.judge(ids, reading.probabilities, head_probabilities(model, trunk, reading))
        ranks = judgement.ranks[model.gate.blend_slots]
        is_word = judgement.targets != OOV
        at_1 += int((is_word & (ranks < 1)).sum())
        at_3 += int((is_word & (ranks < SLOTS)).sum())
        reciprocal += float(np.where(is_word & (ranks < 10), 1.0 / (1.0 + ranks), 0.0).sum())
        by_trunk = is_word & (judgement.ranks[0] < SLOTS)
        differences.append((is_word & (ranks < SLOTS)).astype(np.int32) - by_trunk.astype(np.int32))
        model.learn(reading.message, judgement)
    figures.differences = np.concatenate([np.zeros(0, np.int32), *differences])
    figures.arms[PRODUCT] = ArmScores(at_1=at_1, at_3=at_3, reciprocal_rank=reciprocal, nll=float("nan"))


def _add(figures: UserResult, name: str, block: F32, targets: I32, ranks: I32, public_size: int) -> None:
    before = figures.arms.get(name, ArmScores())
    is_word = targets != OOV
    is_public = (targets > OOV) & (targets < public_size)
    given = block[np.flatnonzero(is_public), targets[is_public]]
    figures.arms[name] = ArmScores(
        at_1=before.at_1 + int((is_word & (ranks < 1)).sum()),
        at_3=before.at_3 + int((is_word & (ranks < SLOTS)).sum()),
        reciprocal_rank=before.reciprocal_rank
        + float(np.where(is_word & (ranks < 10), 1.0 / (1.0 + ranks), 0.0).sum()),
        nll=before.nll - float(np.log(np.maximum(given, 1e-12)).sum()),
        strokes=before.strokes,
    )


#: Words of each user that are typed letter by letter, for keystroke savings.
_TYPED_WORDS = 60


def _type(
    figures: UserResult, blocks: dict[str, F32], targets: I32, words: Sequence[str], ranges: PrefixRanges
) -> None:
    """Count keystrokes of the first words of the later messages, for the trunk and the blend."""
    wanted = [at for at, target in enumerate(targets) if target > OOV][: _TYPED_WORDS - figures.strokes_words]
    if not wanted:
        return
    chosen = targets[wanted]
    costs = np.array([len(words[target]) + 1 for target in chosen])
    figures.strokes_words += len(wanted)
    figures.full_strokes += int(costs.sum())
    size = blocks[BLEND].shape[1]
    for name in (GLOBAL, BLEND):
        block = blocks[name][wanted]
        if block.shape[1] < size:
            block = np.pad(block, [(0, 0), (0, size - block.shape[1])])
        typed = letters_until_offered(block, chosen, ranges)
        is_shown = np.take_along_axis(block, chosen[:, None], axis=1)[:, 0] > 0
        strokes = np.where((typed >= 0) & is_shown, typed + 1, costs).sum()
        before = figures.arms[name]
        figures.arms[name] = ArmScores(
            before.at_1, before.at_3, before.reciprocal_rank, before.nll, before.strokes + int(strokes)
        )

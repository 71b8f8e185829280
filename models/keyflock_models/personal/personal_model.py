"""One user's personal model: everything above the trunk, and the order in which it learns.

    encode   a message becomes extended ids
    judge    trunk and blend predict each of its words, before anything has learned from it
    learn    gate, blend weights, words and history learn from it

This order makes the evidence honest: nothing is ever measured on a word that it has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F32, F64, I32, Bool
from keyflock_models.evaluation.scoring import rank_targets
from keyflock_models.personal.blend import (
    EXPERTS,
    TRUNK,
    BlendPrior,
    BlendWeights,
    blended,
    expert_probabilities,
    next_word_mixtures,
    selected_network,
    without_trunk,
)
from keyflock_models.personal.gate import GainPrior, Gate
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_trust import HeadPolicy, HeadTrust
from keyflock_models.personal.history import HistoryPrediction, UserHistory
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN
from keyflock_models.personal.slips import FADE_FACTOR, FADE_WORDS, SLIP_RATIO, slip_strengths
from keyflock_models.personal.strip import MAX_BLEND_SLOTS, SLOTS, fill_strip, ranks_on_strip
from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_models.text.tokenizer import tokenize
from keyflock_models.text.vocabulary import Vocabulary

#: Version of the plain data from `to_state`.
STATE_VERSION: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """The predictions of trunk and blend for one message, word by word, before it was learned."""

    #: Extended ids of the words. Shape (T,).
    targets: I32
    #: Ranks of the words for the trunk, and on the strips with one and with two slots for the blend; a word
    #: that a side cannot show is past its last rank. Shape (T,) each.
    ranks: tuple[I32, ...]
    #: The match buckets and the experts' probabilities, from which the blend's weights learn.
    matches: list[int]
    probabilities: F64
    #: Whether a head was among the experts.
    has_head: bool = False

    @property
    def words(self) -> int:
        """The number of words judged."""
        return len(self.targets)

    def hits(self, blend_slots: int = MAX_BLEND_SLOTS) -> F64:
        """Return whether each word was on the strip with so many blend slots (0: the trunk's). Shape (T,)."""
        return np.asarray((self.targets != OOV) & (self.ranks[blend_slots] < SLOTS), np.float64)


@dataclass(slots=True, eq=False)
class PersonalModel:
    """One user's personal model. It changes in place with every message.

    Args:
        vocabulary: The population's vocabulary.
        words: The user's own words.
        history: The counts of what the user typed.
        weights: The weights of the experts.
        gate: The gate, which decides whether the blend is shown.
    """

    vocabulary: Vocabulary
    words: PersonalWords
    history: UserHistory
    weights: BlendWeights
    gate: Gate = field(default_factory=Gate)
    #: The head; None until one was fitted that helps. `head_for` checks that it belongs to a trunk.
    head: PersonalHead | None = None
    #: The trust in the head since the trunk changed.
    head_trust: HeadTrust = field(default_factory=HeadTrust)
    #: What `slips` and `is_shown` return; None: something was learned since.
    _slips: dict[int, float] | None = None
    _is_shown: Bool | None = None

    @classmethod
    def new(
        cls, vocabulary: Vocabulary, blend: BlendPrior = DEFAULT_BLEND, gain: GainPrior = DEFAULT_GAIN
    ) -> Self:
        """Return the model of a new user, who has only the population's priors."""
        words = PersonalWords(len(vocabulary))
        return cls(vocabulary, words, UserHistory(), BlendWeights(blend), Gate(gain))

    def encode(self, message: str) -> list[int]:
        """Return the extended ids of the message's words, without BOS and EOS."""
        return self.words.encode(self.vocabulary, message)

    def predictions(self, ids: Sequence[int]) -> list[HistoryPrediction | None]:
        """Return the history's prediction of each of these words from the words before it in the message."""
        context = [BOS, BOS, *ids]
        return [self.history.predict(context[at], context[at + 1]) for at in range(len(ids))]

    def set_head(self, head: PersonalHead | None) -> None:
        """Replace the head with one that was just fitted; None removes it."""
        self.head, self.head_trust = head, HeadTrust()

    def head_for(self, space: str) -> PersonalHead | None:
        """Return the head if it is of this trunk's feature space; a head of another trunk is never used."""
        return self.head if self.head is not None and self.head.space == space else None

    def update_trunk(self, space: str, head_map: HeadMap | None = None) -> HeadPolicy:
        """Adapt the head to the trunk that the phone now has.

        Args:
            space: The trunk's feature space.
            head_map: The map that came with the version; unused unless it leads from the head's space here.
        Returns:
            KEEP on the same trunk, MAP where the map was applied (the head ages), DROP if there is no head,
            else REFIT: the head is set aside, and `head_for` no longer returns it.
        """
        if self.head is None:
            return HeadPolicy.DROP
        if self.head.space == space:
            return HeadPolicy.KEEP
        if head_map is None or (head_map.from_space, head_map.to_space) != (self.head.space, space):
            return HeadPolicy.REFIT
        try:
            self.head = map_head(self.head, head_map)
        except PersonalStateError:
            return HeadPolicy.REFIT
        self.head_trust.trunk_changed(head_map.steps)
        return HeadPolicy.MAP

    def mixtures(self) -> F64:
        """Return the experts' weights now: as learned, with the head's share reduced by its age."""
        return self.head_trust.discounted(self.weights.current())

    def blend(
        self, trunk: F32, predictions: Sequence[HistoryPrediction | None], head: F32 | None = None
    ) -> F32:
        """Return the probabilities of all extended ids, shape (T, end_id); see `blended`."""
        return blended(trunk, predictions, self.mixtures(), self.words.end_id, head)

    def slips(self) -> dict[int, float]:
        """Return the ids of own words that are slips, with their strengths (`slip_strengths`)."""
        if self._slips is None:
            size = len(self.vocabulary)
            ids, counts = self.history.counts()
            is_own = ids >= size
            own, frequent = (
                [
                    (one, self.word(one), count)
                    for one, count in zip(ids[at].tolist(), counts[at].tolist(), strict=True)
                ]
                for at in (is_own, counts >= SLIP_RATIO)
            )
            self._slips = slip_strengths(own, frequent) if own and frequent else {}
        return self._slips

    def is_shown(self) -> Bool:
        """Return which extended ids may be suggested: words, but no slips. Shape (end_id,)."""
        if self._is_shown is None:
            own = np.array(list(map(bool, self.words.all())), np.bool_)
            self._is_shown = np.concatenate([self.vocabulary.is_displayable, own])
            self._is_shown[list(self.slips())] = False
        return self._is_shown

    def judge(self, ids: Sequence[int], trunk: F32, head: F32 | None = None) -> Judgement:
        """Compare the predictions of trunk and blend for a message's words.

        Args:
            ids: The message's ids from `encode`.
            trunk: The trunk's probabilities before each word. Shape (T, V).
            head: The same of the trunk with the user's head.
        """
        predictions = self.predictions(ids)
        targets = np.asarray(ids, np.int32)
        matches, probabilities = expert_probabilities(trunk, ids, predictions, head)
        weights = next_word_mixtures(self.mixtures())
        block = blended(trunk, predictions, weights, self.words.end_id, head)
        network = selected_network(trunk, predictions, weights, head)
        is_shown = self.is_shown()
        is_there = is_shown[targets]
        asked = np.where(is_there, targets, is_shown.argmax()).astype(np.int32)
        strips = (
            np.where(is_there, ranks_on_strip(network, block, is_shown, asked, slots), block.shape[1])
            for slots in range(1, MAX_BLEND_SLOTS + 1)
        )
        ranks = (self.ranks(trunk, targets), *(one.astype(np.int32) for one in strips))
        return Judgement(targets, ranks, matches, probabilities, has_head=head is not None)

    def ranks(self, block: F32, targets: I32) -> I32:
        """Return how many displayable words are above each target; a target that is absent is past the last.

        Args:
            block: The probabilities. Shape (T, V) or (T, end_id).
            targets: Extended ids. Shape (T,).
        """
        size = block.shape[1]
        is_shown = self.is_shown()
        is_there = is_shown[targets] & (targets < size)
        ranks, _ = rank_targets(block, np.where(is_there, targets, EOS).astype(np.int32), is_shown[:size])
        return np.where(is_there, ranks, size).astype(np.int32)

    def learn(self, message: str, judgement: Judgement | None) -> None:
        """Learn from a message.

        Args:
            message: The message as it was typed.
            judgement: The result of `judge`, from before; None if it was not judged.
        """
        if judgement is not None:
            by_trunk = judgement.hits(0)
            strips = [judgement.hits(slots) for slots in range(1, MAX_BLEND_SLOTS + 1)]
            changes = [(int((one > by_trunk).sum()), int((one < by_trunk).sum())) for one in strips]
            self.gate.observe(judgement.words, *changes)
            self.weights.learn(judgement.matches, judgement.probabilities)
            if judgement.has_head:
                self.head_trust.observe(judgement.probabilities)
        self.history.forget(set(self.words.learn(self.vocabulary, message)))
        # Encode again: a word may just have been admitted, or have lost its id to another.
        self.history.observe(self.encode(message))
        self._slips = self._is_shown = None
        for slip, strength in list(self.slips().items()):
            if strength >= FADE_FACTOR and self.history.words_since(slip) > FADE_WORDS:
                self.forget_word(self.word(slip))

    def forget_word(self, word: str) -> None:
        """Remove a word: from the user's own words, from every count, and from the head's biases.

        Args:
            word: The word in any spelling; it is read as typed text is. Of a phrase, every word is removed.
        """
        tokens = tokenize(word)
        for token, public in zip(tokens, self.vocabulary.encode(tokens), strict=True):
            word_id = self.words.remove(token) if public == OOV else public
            if word_id is not None:
                self.history.forget({word_id})
                self.head = None if self.head is None else self.head.without_bias(word_id)
                self._slips = self._is_shown = None

    def suggest(
        self,
        context: Sequence[int],
        trunk: F32,
        *,
        count: int = SLOTS,
        head: F32 | None = None,
        prefix: str = "",
        is_personal: bool = False,
        may_show: Callable[[str], bool] = bool,
    ) -> list[tuple[str, float]]:
        """Return the next words to show and their probabilities; the gate decides the blend's slots.

        Args:
            context: Extended ids before the word, of which at most the last two matter.
            trunk: The trunk's probabilities of the word. Shape (V,).
            count: The number of suggestions wanted.
            head: The same of the trunk with the user's head.
            prefix: Only words with this prefix are returned; their probabilities are then among such words.
            is_personal: Whether to use the user's own experts alone, whatever the gate says.
            may_show: Tells which words the product shows; without it, all of them.
        """
        before, last = [BOS, BOS, *context][-2:]
        row, network, blend_slots = trunk, trunk, SLOTS
        if is_personal or self.gate.is_open:
            predictions = [self.history.predict(before, last)]
            weights = self.mixtures()
            heads = None if head is None else head[None]
            if is_personal:
                weights = np.array([without_trunk(one, has_head=head is not None) for one in weights])
            elif not prefix:
                weights, blend_slots = next_word_mixtures(weights), self.gate.blend_slots
            row = blended(trunk[None], predictions, weights, self.words.end_id, heads)[0]
            network = selected_network(trunk[None], predictions, weights, heads)[0]
        is_offered = self.is_shown()[: len(row)].copy()
        words = [*self.vocabulary.words, *self.words.all()][: len(row)]
        is_offered &= np.array([word.startswith(prefix) and may_show(word) for word in words])
        among = float(row[is_offered].sum()) if prefix else 1.0
        best = fill_strip(network, row, is_offered, blend_slots, count)
        return [(self.word(int(one)), float(row[one]) / max(among, 1e-30)) for one in best]

    def word(self, extended_id: int) -> str:
        """Return the word of an extended id."""
        size = len(self.vocabulary)
        return self.vocabulary.words[extended_id] if extended_id < size else self.words.word(extended_id)

    def to_state(self) -> dict[str, object]:
        """Return the state as plain data: maps, lists, strings, numbers and arrays."""
        return {
            "version": STATE_VERSION,
            "vocabulary": self.vocabulary.digest,
            "words": self.words.to_state(),
            "history": self.history.to_state(),
            "weights": self.weights.responsibilities.astype(np.float32),
            "gate": self.gate.to_state(),
            "head": None if self.head is None else self.head.to_state(),
            "standing": self.head_trust.to_state(),
        }

    @classmethod
    def from_state(
        cls,
        state: object,
        vocabulary: Vocabulary,
        blend: BlendPrior = DEFAULT_BLEND,
        gain: GainPrior = DEFAULT_GAIN,
        *,
        width: int,
    ) -> Self:
        """Restore what `to_state` returned.

        Args:
            state: The plain data.
            vocabulary: The population's vocabulary.
            blend: The population's prior of mixtures.
            gain: The population's prior of users' gain.
            width: The width of the trunk's states.
        Guarantees:
            What learning can reach is restored as it was. Words that are not learnable
            (`words.is_learnable`), and their counts, are left out.
        Raises:
            PersonalStateError: the data cannot have come from there, or are of another vocabulary or version.
        """
        version = state.get("version") if isinstance(state, dict) else None
        if not isinstance(state, dict) or type(version) is not int or version != STATE_VERSION:
            raise PersonalStateError(f"this is no personal model of version {STATE_VERSION}")
        digest = state.get("vocabulary")
        if not isinstance(digest, str) or digest != vocabulary.digest:
            raise PersonalStateError("the personal model counts the words of another vocabulary")
        words = PersonalWords.from_state(state.get("words"), len(vocabulary))
        history = UserHistory.from_state(state.get("history"), words.end_id)
        history.forget({one for one in range(words.first_id, words.end_id) if not words.word(one)})
        weights = BlendWeights.from_state(state.get("weights"), blend)
        gate = Gate.from_state(state.get("gate"), gain)
        head = state.get("head")
        fitted = None
        if head is not None:
            fitted = PersonalHead.from_state(head, width=width, words=len(vocabulary))
        head_trust = HeadTrust.from_state(state.get("standing"))
        return cls(vocabulary, words, history, weights, gate, fitted, head_trust)


__all__ = ["EXPERTS", "STATE_VERSION", "TRUNK", "Judgement", "PersonalModel"]

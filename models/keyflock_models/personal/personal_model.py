"""One user's personal model: everything above the trunk, and the order in which it learns.

    read     a message becomes extended ids
    judge    trunk and blend predict each of its words, before anything has learned from it
    learn    gate, blend weights, words and history take it in

That order is what makes the evidence honest: nothing is ever measured on a word that it has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F32, F64, I32
from keyflock_models.personal.blend import (
    EXPERTS,
    TRUNK,
    BlendPrior,
    BlendWeights,
    between_words,
    blended,
    given_by_experts,
    network_of,
    without_trunk,
)
from keyflock_models.personal.gate import GainPrior, Gate
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_standing import HeadPolicy, HeadStanding
from keyflock_models.personal.history import HistoryPrediction, UserHistory
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN
from keyflock_models.personal.strip import MOST_PLACES, SLOTS, on_strip, ranks_on_strip
from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.scoring import rank_targets
from keyflock_models.special_tokens import BOS, EOS, OOV, SPECIAL_TOKENS
from keyflock_models.tokenizer import folded
from keyflock_models.vocabulary import Vocabulary

#: Of the plain data that `to_state` gives.
STATE_VERSION: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What trunk and blend made of one message, word by word, before it was learned."""

    #: Extended ids. Shape (T,).
    targets: I32
    #: Where the target stood for the trunk, and on the strips with one and with two places for the blend; a
    #: word that a side cannot show is far down. Shape (T,) each.
    ranks: tuple[I32, ...]
    #: What each expert gave, for the blend's weights.
    matches: list[int]
    given: F64
    #: Whether the head was among them.
    has_head: bool = False

    @property
    def words(self) -> int:
        """Words judged."""
        return len(self.targets)

    def hits(self, places: int = MOST_PLACES) -> F64:
        """Whether each word was on the strip with so many places for the blend (0: the trunk's); (T,)."""
        return np.asarray((self.targets != OOV) & (self.ranks[places] < SLOTS), np.float64)


@dataclass(slots=True, eq=False)
class PersonalModel:
    """One user's. Changes in place with every message.

    Args:
        vocabulary: The population's.
        words: The user's own words.
        history: What the user typed, counted.
        weights: How much each expert is believed.
        gate: Whether the blend is shown.
    """

    vocabulary: Vocabulary
    words: PersonalWords
    history: UserHistory
    weights: BlendWeights
    gate: Gate = field(default_factory=Gate)
    #: None until one was fitted, and when none was worth keeping. `head_for` says on which trunk it counts.
    head: PersonalHead | None = None
    #: How far the head is trusted since the trunk changed under it.
    standing: HeadStanding = field(default_factory=HeadStanding)

    @classmethod
    def new(
        cls, vocabulary: Vocabulary, blend: BlendPrior = DEFAULT_BLEND, gain: GainPrior = DEFAULT_GAIN
    ) -> Self:
        """Of a user of whom nothing is known but what the population is like."""
        words = PersonalWords(len(vocabulary))
        return cls(vocabulary, words, UserHistory(), BlendWeights(blend), Gate(gain))

    def read(self, message: str) -> list[int]:
        """Extended ids of the message's words, without BOS and EOS."""
        return self.words.encode(self.vocabulary, message)

    def predictions(self, ids: Sequence[int]) -> list[HistoryPrediction | None]:
        """The history's, at each of these words, from what stands before it in the message."""
        context = [BOS, BOS, *ids]
        return [self.history.predict(context[at], context[at + 1]) for at in range(len(ids))]

    def wear(self, head: PersonalHead | None) -> None:
        """Take a head that was just fitted in place of the present one; None: go on without."""
        self.head, self.standing = head, HeadStanding()

    def head_for(self, space: str) -> PersonalHead | None:
        """The head, if it lives in this trunk's feature space; a head of another trunk is never used."""
        return self.head if self.head is not None and self.head.space == space else None

    def follow(self, space: str, head_map: HeadMap | None = None) -> HeadPolicy:
        """Come along to the trunk that the phone now has, as far as the head can.

        Args:
            space: The trunk's feature space.
            head_map: What came with the version; of no use if it does not lead from the head's space here.
        Returns:
            What was done: KEEP on the same trunk, MAP where the map fits (the head ages), else REFIT: the
            head is set aside, `head_for` no longer gives it. DROP if there is no head.
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
        self.standing.trunk_changed(head_map.steps)
        return HeadPolicy.MAP

    def mixtures(self) -> F64:
        """How much each expert is believed now: the learned weights, the head's reduced by its age."""
        return self.standing.discounted(self.weights.current())

    def blend(
        self, trunk: F32, predictions: Sequence[HistoryPrediction | None], head: F32 | None = None
    ) -> F32:
        """Probabilities of every extended id, shape (T, end_id); see `blended`."""
        return blended(trunk, predictions, self.mixtures(), self.words.end_id, head)

    def judge(self, ids: Sequence[int], trunk: F32, head: F32 | None = None) -> Judgement:
        """Both sides' predictions of a message's words, compared.

        Args:
            ids: Of `read`.
            trunk: The trunk's probabilities at each word, shape (T, V).
            head: The same with the user's head on it.
        """
        predictions = self.predictions(ids)
        targets = np.asarray(ids, np.int32)
        matches, given = given_by_experts(trunk, ids, predictions, head)
        weights = between_words(self.mixtures())
        block = blended(trunk, predictions, weights, self.words.end_id, head)
        network = network_of(trunk, predictions, weights, head)
        is_there = (targets > OOV) & (targets < block.shape[1])
        asked = np.where(is_there, targets, len(SPECIAL_TOKENS)).astype(np.int32)
        is_shown = np.arange(block.shape[1]) >= len(SPECIAL_TOKENS)
        strips = (
            np.where(is_there, ranks_on_strip(network, block, is_shown, asked, places), block.shape[1])
            for places in range(1, MOST_PLACES + 1)
        )
        ranks = (self.ranks(trunk, targets), *(one.astype(np.int32) for one in strips))
        return Judgement(targets, ranks, matches, given, has_head=head is not None)

    def ranks(self, block: F32, targets: I32) -> I32:
        """How many displayable words stand above each target; past the last for one that is not there.

        Args:
            block: Probabilities, shape (T, V) or (T, end_id).
            targets: Extended ids, shape (T,).
        """
        size = block.shape[1]
        is_there = (targets > OOV) & (targets < size)
        is_displayable = np.arange(size) >= len(SPECIAL_TOKENS)
        ranks, _ = rank_targets(block, np.where(is_there, targets, EOS).astype(np.int32), is_displayable)
        return np.where(is_there, ranks, size).astype(np.int32)

    def learn(self, message: str, judgement: Judgement | None) -> None:
        """Take a message in.

        Args:
            message: As it was typed.
            judgement: Of `judge`, from before; None if it was not judged.
        """
        if judgement is not None:
            by_trunk = judgement.hits(0)
            strips = [judgement.hits(places) for places in range(1, MOST_PLACES + 1)]
            changes = [(int((one > by_trunk).sum()), int((one < by_trunk).sum())) for one in strips]
            self.gate.observe(judgement.words, *changes)
            self.weights.learn(judgement.matches, judgement.given)
            if judgement.has_head:
                self.standing.observe(judgement.given)
        for evicted in self.words.learn(self.vocabulary, message):
            self.history.forget(evicted)
        # Read again: a word may just have been admitted, or have given its id to another.
        self.history.observe(self.read(message))

    def forget_word(self, word: str) -> None:
        """Remove a word: from the user's own words, from every count, and from the head's biases.

        Args:
            word: However it is written: folded as typed text is.
        """
        known_as = folded(word)
        public = self.vocabulary.encode([known_as])[0]
        word_id = self.words.remove(known_as) if public == OOV else public
        if word_id is not None:
            self.history.forget(word_id)
            self.head = None if self.head is None else self.head.without(word_id)

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
        """The next words to show, and their probabilities: the blend in the places that the gate gives it.

        Args:
            context: Extended ids before the place, at most the last two matter.
            trunk: The trunk's probabilities there, shape (V,).
            count: Suggestions wanted.
            head: The same with the user's head on it.
            prefix: Only words that begin so; their probabilities are then among such words.
            is_personal: The user's own experts alone, whatever the gate says.
            may_show: Which words the product shows; without it, all of them.
        """
        before, last = [BOS, BOS, *context][-2:]
        row, network, places = trunk, trunk, SLOTS
        if is_personal or self.gate.is_open:
            predictions = [self.history.predict(before, last)]
            weights = self.mixtures()
            heads = None if head is None else head[None]
            if is_personal:
                weights = np.array([without_trunk(one, has_head=head is not None) for one in weights])
            elif not prefix:
                weights, places = between_words(weights), self.gate.places
            row = blended(trunk[None], predictions, weights, self.words.end_id, heads)[0]
            network = network_of(trunk[None], predictions, weights, heads)[0]
        is_offered = np.array(
            [
                one >= len(SPECIAL_TOKENS) and bool(word) and word.startswith(prefix) and may_show(word)
                for one, word in enumerate(map(self.word, range(len(row))))
            ]
        )
        among = float(row[is_offered].sum()) if prefix else 1.0
        best = on_strip(network, row, is_offered, places, count)
        return [(self.word(int(one)), float(row[one]) / max(among, 1e-30)) for one in best]

    def word(self, extended_id: int) -> str:
        """The word of an extended id."""
        size = len(self.vocabulary)
        return self.vocabulary.words[extended_id] if extended_id < size else self.words.word(extended_id)

    def to_state(self) -> dict[str, object]:
        """As plain data: maps, lists, strings, numbers and arrays."""
        return {
            "version": STATE_VERSION,
            "vocabulary": self.vocabulary.digest,
            "words": self.words.to_state(),
            "history": self.history.to_state(),
            "weights": self.weights.responsibilities.astype(np.float32),
            "gate": self.gate.to_state(),
            "head": None if self.head is None else self.head.to_state(),
            "standing": self.standing.to_state(),
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
        """Back from `to_state`.

        Args:
            state: The plain data.
            vocabulary: The population's.
            blend: The population's belief about mixtures.
            gain: About what users gain.
            width: Of the trunk's states.
        Raises:
            PersonalStateError: it cannot have come from there, or belongs to another vocabulary or version.
        """
        version = state.get("version") if isinstance(state, dict) else None
        if not isinstance(state, dict) or type(version) is not int or version != STATE_VERSION:
            raise PersonalStateError(f"this is no personal model of version {STATE_VERSION}")
        digest = state.get("vocabulary")
        if not isinstance(digest, str) or digest != vocabulary.digest:
            raise PersonalStateError("the personal model counts the words of another vocabulary")
        words = PersonalWords.from_state(state.get("words"), len(vocabulary))
        history = UserHistory.from_state(state.get("history"), words.end_id)
        weights = BlendWeights.from_state(state.get("weights"), blend)
        gate = Gate.from_state(state.get("gate"), gain)
        head = state.get("head")
        fitted = None
        if head is not None:
            fitted = PersonalHead.from_state(head, width=width, words=len(vocabulary))
        standing = HeadStanding.from_state(state.get("standing"))
        return cls(vocabulary, words, history, weights, gate, fitted, standing)


__all__ = ["EXPERTS", "STATE_VERSION", "TRUNK", "Judgement", "PersonalModel"]

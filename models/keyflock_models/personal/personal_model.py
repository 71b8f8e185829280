"""One user's personal model: everything above the trunk, and the order in which it learns.

    read     a message becomes extended ids
    judge    trunk and blend predict each of its words, before anything has learned from it
    learn    gate, blend weights, words and history take it in

That order is what makes the evidence honest: nothing is ever measured on a word that it has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F32, F64, I32
from keyflock_models.personal.blend import (
    EXPERTS,
    TRUNK,
    BlendPrior,
    BlendWeights,
    blended,
    given_by_experts,
    without_trunk,
)
from keyflock_models.personal.gate import GainPrior, Gate
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_standing import HeadPolicy, HeadStanding
from keyflock_models.personal.history import HistoryPrediction, UserHistory
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN
from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.scoring import rank_targets
from keyflock_models.special_tokens import BOS, EOS, OOV, SPECIAL_TOKENS
from keyflock_models.vocabulary import Vocabulary

#: Of the plain data that `to_state` gives.
STATE_VERSION: Final = 1
#: Suggestions on the strip: what counts as a hit.
SLOTS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What trunk and blend made of one message, word by word, before it was learned."""

    #: Extended ids. Shape (T,).
    targets: I32
    #: Displayable words above the target; a word that a side cannot show is far down. Shape (T,).
    trunk_rank: I32
    blend_rank: I32
    #: What each expert gave, for the blend's weights.
    matches: list[int]
    given: F64
    #: Whether the head was among them.
    has_head: bool = False

    @property
    def words(self) -> int:
        """Words judged."""
        return len(self.targets)

    def hits(self) -> tuple[F64, F64]:
        """Whether the trunk, and the blend, had each word among the first three. Shape (T,) each."""
        is_word = self.targets != OOV
        return (
            (is_word & (self.trunk_rank < SLOTS)).astype(np.float64),
            (is_word & (self.blend_rank < SLOTS)).astype(np.float64),
        )


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
        return Judgement(
            targets,
            self.ranks(trunk, targets),
            self.ranks(self.blend(trunk, predictions, head), targets),
            matches,
            given,
            has_head=head is not None,
        )

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
            trunk_hits, blend_hits = judgement.hits()
            gains = int((blend_hits > trunk_hits).sum())
            losses = int((blend_hits < trunk_hits).sum())
            self.gate.observe(judgement.words, gains, losses)
            self.weights.learn(judgement.matches, judgement.given)
            if judgement.has_head:
                self.standing.observe(judgement.given)
        for evicted in self.words.learn(self.vocabulary, message):
            self.history.forget(evicted)
        # Read again: a word may just have been admitted, or have given its id to another.
        self.history.observe(self.read(message))

    def forget_word(self, word: str) -> None:
        """Remove a word: from the user's own words and from every count."""
        public = self.vocabulary.encode([word])[0]
        word_id = self.words.remove(word) if public == OOV else public
        if word_id is not None:
            self.history.forget(word_id)

    def suggest(
        self,
        context: Sequence[int],
        trunk: F32,
        *,
        count: int = SLOTS,
        head: F32 | None = None,
        prefix: str = "",
        is_personal: bool = False,
    ) -> list[tuple[str, float]]:
        """The most probable next words, and their probabilities, of the blend if the gate is open.

        Args:
            context: Extended ids before the place, at most the last two matter.
            trunk: The trunk's probabilities there, shape (V,).
            count: Suggestions wanted.
            head: The same with the user's head on it.
            prefix: Only words that begin so; their probabilities are then among such words.
            is_personal: The user's own experts alone, whatever the gate says.
        """
        before, last = [BOS, BOS, *context][-2:]
        row = trunk
        if is_personal or self.gate.is_open:
            prediction = self.history.predict(before, last)
            weights = self.mixtures()
            if is_personal:
                weights = np.array([without_trunk(one, has_head=head is not None) for one in weights])
            heads = None if head is None else head[None]
            row = blended(trunk[None], [prediction], weights, self.words.end_id, heads)[0]
        offered = [
            one
            for one in range(len(SPECIAL_TOKENS), len(row))
            if self.word(one).startswith(prefix) and self.word(one)
        ]
        shares = row[offered]
        among = float(shares.sum()) if prefix else 1.0
        # Ties go to the smaller id, as everywhere.
        best = np.argsort(-shares, kind="stable")[:count]
        return [(self.word(offered[at]), float(shares[at]) / max(among, 1e-30)) for at in best]

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
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise PersonalStateError(f"this is no personal model of version {STATE_VERSION}")
        if state.get("vocabulary") != vocabulary.digest:
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

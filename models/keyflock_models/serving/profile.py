"""One user's personal model, laid out for lookups: made once, asked often, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F64, I32
from keyflock_models.personal.blend import between_words, speaks_with_head, without_trunk
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_standing import HeadStanding
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.serving.history_index import HistoryIndex
from keyflock_models.serving.vocabulary_index import VocabularyIndex

_EMPTY: Final[I32] = np.zeros(0, np.int32)
#: The profile itself and the objects that hold its parts together.
_OBJECTS_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class ServingProfile:
    """What `PersonalModel.suggest` needs, with everything computed that does not depend on the context."""

    words: PersonalWords
    history: HistoryIndex
    #: The words typed, 0 for the user's own, which the network does not know. Shape (N,).
    public_ids: I32
    #: Where, among the words typed, the user's own stand, and those that may not be shown.
    own_places: I32
    hidden_places: I32
    #: The blend's places on the strip, by the gate.
    places: int
    head: PersonalHead | None
    #: As learned, and with the head's share reduced by its age; the same before the first letter. Shape
    #: (MATCHES, experts).
    _learned: F64
    weights: F64
    between_words: F64
    _standing: HeadStanding

    @classmethod
    def of(cls, model: PersonalModel, index: VocabularyIndex) -> Self:
        """The profile of a model.

        Args:
            model: The user's; not to be changed any more.
            index: Of the population's vocabulary.
        """
        history = HistoryIndex.of(model.history)
        ids = history.ids
        size = len(index.vocabulary)
        is_own = ids >= size
        is_shown = np.empty(len(ids), np.bool_)
        is_shown[~is_own] = index.is_shown[ids[~is_own]]
        is_shown[is_own] = [index.may_show(model.word(int(one))) for one in ids[is_own]]
        standing = replace(model.standing)
        learned = model.weights.current()
        weights = standing.discounted(learned)
        return cls(
            model.words.without_counts(),
            history,
            np.where(is_own, 0, ids).astype(np.int32),
            np.flatnonzero(is_own).astype(np.int32),
            np.flatnonzero(~is_shown).astype(np.int32),
            model.gate.places,
            model.head,
            learned,
            weights,
            between_words(weights),
            standing,
        )

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory: what a cache of profiles counts.

        Guarantees:
            Within a quarter of what the interpreter holds for it, and some kilobytes.
        """
        arrays: list[np.ndarray] = [self.public_ids, self.own_places, self.hidden_places]
        arrays += [self._learned, self.weights, self.between_words]
        if self.head is not None:
            arrays += [self.head.down, self.head.up, self.head.bias_ids, self.head.bias]
        own = sum(one.nbytes + getsizeof(_EMPTY) for one in arrays)
        return _OBJECTS_BYTES + own + self.words.size_bytes + self.history.size_bytes

    def following(self, space: str, maps: Mapping[str, HeadMap]) -> Self:
        """The profile where the network is of this feature space: with its head mapped, if a map is there.

        As `PersonalModel.follow`: a mapped head is older, and its weight less; one that cannot be mapped is
        set aside.
        """
        if self.head is None or self.head.space == space or self.head.space not in maps:
            return self
        head_map = maps[self.head.space]
        try:
            head = map_head(self.head, head_map)
        except PersonalStateError:
            return replace(self, head=None)
        standing = replace(self._standing)
        standing.trunk_changed(head_map.steps)
        weights = standing.discounted(self._learned)
        return replace(
            self,
            head=head,
            weights=weights,
            between_words=between_words(weights),
            _standing=standing,
        )

    def mixture(self, match: int, space: str, *, is_personal: bool, has_letters: bool) -> F64:
        """The weights at a place, shape (experts,), where the network is of this feature space."""
        if is_personal:
            return without_trunk(self.weights[match], has_head=self._fits(space))
        return np.asarray((self.weights if has_letters else self.between_words)[match])

    def head_for(self, mixture: F64, space: str) -> PersonalHead | None:
        """The head, where it speaks; a head of another feature space never does."""
        return self.head if self._fits(space) and speaks_with_head(mixture) else None

    def _fits(self, space: str) -> bool:
        return self.head is not None and self.head.space == space

"""One user's personal model, laid out for look-ups: it is built once, queried often and never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F64, I32
from keyflock_models.personal.blend import next_word_mixtures, uses_head, without_trunk
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_trust import HeadTrust
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.serving.history_index import HistoryIndex
from keyflock_models.serving.vocabulary_index import VocabularyIndex

_EMPTY: Final[I32] = np.zeros(0, np.int32)
#: The approximate size of the profile itself and of the objects that hold its parts.
_OBJECTS_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class ServingProfile:
    """The data that `PersonalModel.suggest` needs, with all computed that does not depend on the context."""

    words: PersonalWords
    history: HistoryIndex
    #: Ids of the words typed; 0 for the user's own words, which the network does not know. Shape (N,).
    public_ids: I32
    #: Positions, among the words typed, of the user's own words and of those that may not be shown.
    own_positions: I32
    hidden_positions: I32
    #: The slots of the strip that the gate gives to the blend.
    blend_slots: int
    head: PersonalHead | None
    #: The experts' weights as learned; with the head's share reduced by its age; and those while no letter is
    #: typed yet. Shape (MATCH_BUCKETS, experts) each.
    _learned_weights: F64
    weights: F64
    next_word_weights: F64
    _head_trust: HeadTrust

    @classmethod
    def from_model(cls, model: PersonalModel, index: VocabularyIndex) -> Self:
        """Build the profile of a model.

        Args:
            model: The user's model, which must not change any more.
            index: The index of the population's vocabulary.
        """
        history = HistoryIndex.from_history(model.history)
        ids = history.ids
        size = len(index.vocabulary)
        is_own = ids >= size
        is_shown = np.empty(len(ids), np.bool_)
        is_shown[~is_own] = index.is_shown[ids[~is_own]]
        slips = model.slips()
        is_shown[is_own] = [
            one not in slips and index.may_show(model.word(one)) for one in ids[is_own].tolist()
        ]
        head_trust = replace(model.head_trust)
        learned = model.weights.current()
        weights = head_trust.discounted(learned)
        return cls(
            model.words.read_only_copy(),
            history,
            np.where(is_own, 0, ids).astype(np.int32),
            np.flatnonzero(is_own).astype(np.int32),
            np.flatnonzero(~is_shown).astype(np.int32),
            model.gate.blend_slots,
            model.head,
            learned,
            weights,
            next_word_mixtures(weights),
            head_trust,
        )

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, approximately, for a cache that counts bytes.

        Guarantees:
            It is within a quarter of what the interpreter holds for the profile, and some kilobytes.
        """
        arrays: list[np.ndarray] = [self.public_ids, self.own_positions, self.hidden_positions]
        arrays += [self._learned_weights, self.weights, self.next_word_weights]
        if self.head is not None:
            arrays += [self.head.down, self.head.up, self.head.bias_ids, self.head.bias]
        own = sum(one.nbytes + getsizeof(_EMPTY) for one in arrays)
        return _OBJECTS_BYTES + own + self.words.size_bytes + self.history.size_bytes

    def for_trunk(self, space: str, maps: Mapping[str, HeadMap]) -> Self:
        """Return the profile for a trunk of this feature space, with the head mapped where there is a map.

        As in `PersonalModel.update_trunk`, a mapped head is older and has less weight, and a head that cannot
        be mapped is set aside.
        """
        if self.head is None or self.head.space == space or self.head.space not in maps:
            return self
        head_map = maps[self.head.space]
        try:
            head = map_head(self.head, head_map)
        except PersonalStateError:
            return replace(self, head=None)
        head_trust = replace(self._head_trust)
        head_trust.trunk_changed(head_map.steps)
        weights = head_trust.discounted(self._learned_weights)
        return replace(
            self,
            head=head,
            weights=weights,
            next_word_weights=next_word_mixtures(weights),
            _head_trust=head_trust,
        )

    def mixture(self, match: int, space: str, *, is_personal: bool, has_letters: bool) -> F64:
        """Return the weights for a match bucket on a trunk of this feature space. Shape (experts,)."""
        if is_personal:
            return without_trunk(self.weights[match], has_head=self._fits(space))
        return np.asarray((self.weights if has_letters else self.next_word_weights)[match])

    def head_for(self, mixture: F64, space: str) -> PersonalHead | None:
        """Return the head if the mixture uses it and it is of this feature space, else None."""
        return self.head if self._fits(space) and uses_head(mixture) else None

    def _fits(self, space: str) -> bool:
        return self.head is not None and self.head.space == space

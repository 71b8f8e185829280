"""One user's personal model, laid out for lookups: made once, asked often, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from keyflock_models.arrays import F64, Bool
from keyflock_models.personal.blend import speaks_with_head, without_trunk
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_standing import HeadStanding
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalWords
from keyflock_models.serving.history_index import HistoryIndex
from keyflock_models.serving.vocabulary_index import VocabularyIndex


@dataclass(frozen=True, slots=True, eq=False)
class ServingProfile:
    """What `PersonalModel.suggest` needs, with everything computed that does not depend on the context."""

    words: PersonalWords
    history: HistoryIndex
    #: Which of the words typed may be shown. Shape (N,).
    is_shown: Bool
    is_open: bool
    head: PersonalHead | None
    #: As learned, and with the head's share reduced by its age. Shape (MATCHES, experts).
    _learned: F64
    weights: F64
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
        return cls(
            model.words,
            history,
            is_shown,
            model.gate.is_open,
            model.head,
            model.weights.current(),
            standing.discounted(model.weights.current()),
            standing,
        )

    def following(self, space: str, maps: Mapping[str, HeadMap]) -> Self:
        """The profile where the network is of this feature space: with its head mapped, if a map is there.

        As `PersonalModel.follow`: a mapped head is older, and its weight less.
        """
        if self.head is None or self.head.space == space or self.head.space not in maps:
            return self
        head_map = maps[self.head.space]
        standing = replace(self._standing)
        standing.trunk_changed(head_map.steps)
        return replace(
            self,
            head=map_head(self.head, head_map),
            weights=standing.discounted(self._learned),
            _standing=standing,
        )

    def mixture(self, match: int, space: str, *, is_personal: bool) -> F64:
        """The weights at a place, shape (experts,), where the network is of this feature space."""
        weights = self.weights[match]
        return without_trunk(weights, has_head=self._fits(space)) if is_personal else weights

    def head_for(self, mixture: F64, space: str) -> PersonalHead | None:
        """The head, where it speaks; a head of another feature space never does."""
        return self.head if self._fits(space) and speaks_with_head(mixture) else None

    def _fits(self, space: str) -> bool:
        return self.head is not None and self.head.space == space

"""This worker job measures some users' heads over a sequence of trunks.

Every policy is judged on the same later messages, by the head alone: no other expert covers for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from keyflock_client_sim.experiments.drift.versions import TrunkVersions, maps_of
from keyflock_client_sim.experiments.personalisation.users import UserMessages
from keyflock_client_sim.personalising.reader import TrunkReader, TrunkReading
from keyflock_client_sim.training.model_folder import ModelFolder
from keyflock_models.arrays import F32, F64
from keyflock_models.evaluation.scoring import rank_targets
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.head_trust import HeadPolicy
from keyflock_models.personal.strip import SLOTS
from keyflock_models.personal.typed_secrets import words_without_secrets
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.vocabulary import Vocabulary

DROP, KEEP, MAP, REFIT = (
    policy.value for policy in (HeadPolicy.DROP, HeadPolicy.KEEP, HeadPolicy.MAP, HeadPolicy.REFIT)
)
#: The policy that maps at every version, and fits anew where `REFIT` does.
MAP_AND_REFIT: Final = "map and refit"
POLICIES: Final = (DROP, KEEP, MAP, REFIT, MAP_AND_REFIT)


@dataclass(slots=True, eq=False)
class UserDrift:
    """One user's sums over the later messages, by version."""

    user: str
    has_head: bool
    words: int = 0
    public_words: int = 0
    #: Hits in the first three, and nats over the public words, by policy, shape (versions,).
    hits: dict[str, F64] = field(default_factory=dict)
    nats: dict[str, F64] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class MeasureDrift:
    """A job that fits heads on version 0, and updates them with every version."""

    versions: TrunkVersions
    #: The results of `FitMaps` for every version above 0, in order.
    maps: tuple[dict[str, object], ...]
    users: tuple[UserMessages, ...]
    refit_every: int

    def run(self, models: ModelFolder) -> list[UserDrift]:
        """Measure version by version, and in each user by user."""
        maps = maps_of(self.maps, self.versions.config.embedding_size)
        count = len(self.versions.digests)
        users: list[_UserHeads] = []
        for number in range(count):
            trunk = self.versions.reader(models, number)
            if not number:
                users = [
                    _UserHeads.starting(one, trunk, self.versions.vocabulary, count) for one in self.users
                ]
            for walker in users:
                if number:
                    walker.update_heads(trunk, maps[number - 1], refits=number % self.refit_every == 0)
                walker.judge(trunk, number)
        return [walker.result for walker in users]


@dataclass(slots=True, eq=False)
class _UserHeads:
    """One user's head of every policy, and the result so far."""

    messages: UserMessages
    vocabulary: Vocabulary
    result: UserDrift
    heads: dict[str, PersonalHead | None]

    @classmethod
    def starting(
        cls, messages: UserMessages, trunk: TrunkReader, vocabulary: Vocabulary, versions: int
    ) -> "_UserHeads":
        head = _fitted(messages.earlier, trunk, vocabulary)
        figures = UserDrift(messages.user, has_head=head is not None)
        for sums in (figures.hits, figures.nats):
            sums.update({policy: np.zeros(versions) for policy in POLICIES})
        heads = dict.fromkeys(POLICIES, head) | {DROP: None}
        return cls(messages, vocabulary, figures, heads)

    def update_heads(self, trunk: TrunkReader, head_map: HeadMap, *, refits: bool) -> None:
        """Move each policy's head onto the next trunk."""
        for policy in (MAP, MAP_AND_REFIT):
            head = self.heads[policy]
            self.heads[policy] = None if head is None else map_head(head, head_map)
        if (unchanged := self.heads[KEEP]) is not None:
            # This policy keeps the same numbers, whatever they mean on the new trunk.
            self.heads[KEEP] = replace(unchanged, space=trunk.space)
        if refits:
            fresh = _fitted(self.messages.earlier, trunk, self.vocabulary)
            self.heads[REFIT] = self.heads[MAP_AND_REFIT] = fresh

    def judge(self, trunk: TrunkReader, version: int) -> None:
        """Judge every policy on the later messages."""
        readings = list(trunk.read(self.messages.later))
        if not readings:
            return
        targets = _targets(readings, self.vocabulary)
        states = np.concatenate([one.states for one in readings])
        by_trunk = np.concatenate([one.probabilities for one in readings])
        self.result.words, self.result.public_words = len(targets), int((targets > OOV).sum())
        seen: dict[int, tuple[float, float]] = {}
        for policy, head in self.heads.items():
            # A head that is set aside, of a trunk before this one, is not used.
            used = head if head is not None and head.space == trunk.space else None
            if id(used) not in seen:
                block = by_trunk if used is None else trunk.with_head(used, states)
                seen[id(used)] = _judged(block, targets, self.vocabulary)
            self.result.hits[policy][version], self.result.nats[policy][version] = seen[id(used)]


def _fitted(messages: Sequence[str], trunk: TrunkReader, vocabulary: Vocabulary) -> PersonalHead | None:
    readings = list(trunk.read(messages))
    if not readings:
        return None
    states = np.concatenate([one.states for one in readings])
    return trunk.fit(states, _targets(readings, vocabulary), HeadSettings())


def _targets(readings: Sequence[TrunkReading], vocabulary: Vocabulary) -> np.ndarray:
    ids = [
        one
        for reading in readings
        for one in vocabulary.encode(words_without_secrets(reading.message, vocabulary))
    ]
    return np.array(ids, np.int32)


def _judged(block: F32, targets: np.ndarray, vocabulary: Vocabulary) -> tuple[float, float]:
    ranks, _ = rank_targets(block, targets, vocabulary.is_displayable)
    is_public = targets > OOV
    given = block[np.flatnonzero(is_public), targets[is_public]]
    return float((is_public & (ranks < SLOTS)).sum()), -float(np.log(np.maximum(given, 1e-12)).sum())

"""The row of a task's next round: from which version, with which spec and which bounds it opens.

A ``train`` round opens from the newest version, a ``personalize`` round from the one that keyboards serve.
A round of an ``evaluate`` task opens with a spec that names both versions by number, whatever is released or
published while it is open. Where there is nothing to compare, no round opens: the task waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import msgspec
from msgspec import UNSET

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.tuning import tuned_task
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.compared_pairs import pair_of
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.selection import round_id
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.records import RoundRecord


@dataclass(frozen=True, slots=True)
class ComparedVersions:
    """The two versions of an ``evaluate`` round."""

    candidate: VersionRecord
    baseline: VersionRecord

    def fixed_in(self, spec: TaskSpec) -> TaskSpec:
        """Return the spec with both versions named by number, for devices that have trained neither."""
        comparison = msgspec.structs.replace(
            spec.comparison, candidate=self.candidate.version, baseline=self.baseline.version
        )
        # What was trained since the older one was made may be in the newer one.
        since = min(self.candidate.created_at, self.baseline.created_at)
        if spec.eligibility.not_trained_since is not UNSET:
            since = min(since, spec.eligibility.not_trained_since)
        eligibility = msgspec.structs.replace(spec.eligibility, not_trained_since=since)
        return msgspec.structs.replace(spec, evaluating=comparison, eligibility=eligibility)


class RoundOpening:
    """Composes the rows of rounds that are about to open."""

    def __init__(self, deps: Dependencies, models: ModelStore, scales: TaskScales) -> None:
        self._deps = deps
        self._models = models
        self._scales = scales

    async def next_round(self, task: TaskSpec, sequence: int) -> RoundRecord | None:
        """Return the row of a task's next round; None if it has to wait: ``waiting_reason`` says why."""
        spec, now = await tuned_task(self._deps.store, task), self._deps.clock()
        match spec.kind:
            case TaskKind.TRAIN:
                base = (await self._models.population(spec.population)).latest_version
            case TaskKind.PERSONALIZE:
                base = await self._models.released_version(spec.population)
            case TaskKind.EVALUATE:
                compared = await self._compared_versions(spec)
                if isinstance(compared, str):
                    return None
                if _taken_reason(spec, compared, await self._deps.store.rounds.unfinished([])):
                    return None
                spec, base = compared.fixed_in(spec), compared.candidate.version
        opening = Round(
            id=round_id(spec.name, sequence),
            task=spec.name,
            population=spec.population,
            sequence=sequence,
            base_version=base,
            spec=spec,
            opened_at=now,
            deadline_at=now + timedelta(seconds=spec.round.deadline_s),
        )
        return RoundRecord(round=opening, norm_scales_json=await self._scales.next_scales(spec))

    async def waiting_reason(self, task: TaskSpec, unfinished: Iterable[RoundRecord]) -> str:
        """Return why the next round of an ``evaluate`` task cannot open now; empty if it can.

        Args:
            task: The task.
            unfinished: The rounds that are not over.
        """
        if task.kind is not TaskKind.EVALUATE:
            return ""
        compared = await self._compared_versions(task)
        return compared if isinstance(compared, str) else _taken_reason(task, compared, unfinished)

    async def moot_reason(self, task: TaskSpec, current: Round) -> str:
        """Return why nobody asks any more for what an open round of an ``evaluate`` task measures.

        Edge cases:
            versions that are named by number, or the newest one -> never: they are worth knowing anyway
            no candidate on its way -> the round goes on for as long as its baseline is what keyboards serve
        """
        if task.kind is not TaskKind.EVALUATE or task.comparison.candidate != "candidate":
            return ""
        candidate, baseline = current.spec.comparison.versions
        release = await self._models.current_release(task.population)
        if task.comparison.baseline == "released" and release.version != baseline:
            return f"Keyboards are served version {release.version} by now, and no longer {baseline}."
        if release.candidate not in (None, candidate):
            return f"Version {release.candidate} is the candidate by now, and no longer {candidate}."
        return ""

    async def _compared_versions(self, task: TaskSpec) -> ComparedVersions | str:
        """Return the versions that the task's next round would compare, or why there are none."""
        comparison = task.comparison
        candidate, baseline = comparison.candidate, comparison.baseline
        if candidate == "candidate":
            candidate = await self._models.candidate_version(task.population)
        if candidate == "newest":
            candidate = (await self._models.population(task.population)).latest_version
        if baseline == "released":
            baseline = await self._models.released_version(task.population)
        if candidate == baseline:
            return (
                f"Version {candidate} is both the candidate ({comparison.candidate}) and the baseline "
                f"({comparison.baseline}): there is nothing to compare before they differ."
            )
        try:
            return ComparedVersions(
                await self._models.version(task.population, ModelVersion(candidate)),
                await self._models.version(task.population, ModelVersion(baseline)),
            )
        except ApiError as missing:
            return f"{missing.detail} The task compares versions {candidate} and {baseline}."


def _taken_reason(task: TaskSpec, compared: ComparedVersions, unfinished: Iterable[RoundRecord]) -> str:
    """Return which other task's round compares the same two versions now; empty if none does."""
    candidate, baseline = compared.candidate.version, compared.baseline.version
    for other in unfinished:
        if other.round.task != task.name and pair_of(other.round) == (task.population, (candidate, baseline)):
            return (
                f"Round {other.round.id} compares versions {candidate} and {baseline}: this task's next "
                "one opens when that is over. A phone is counted once for two versions, whoever asks."
            )
    return ""

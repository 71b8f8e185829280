"""The version service answers operators' calls about model versions."""

import json

import numpy as np

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.operator_lists import Page, place_after
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.operator.versions import TensorDistance, VersionComparison, VersionView
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.model_version import Download, VersionRecord
from keyflock_server.storage.audit_documents import revision_of, version_document
from keyflock_server.storage.records import PopulationRecord, RoundRecord


class VersionService:
    """Shows, compares, downloads and pins model versions for operators."""

    def __init__(self, deps: Dependencies, models: ModelStore) -> None:
        self._deps = deps
        self._models = models
        self._addresses = TaskAddresses(deps)

    async def list(
        self, population: str, before: ModelVersion | None, limit: int
    ) -> Page[VersionView, ModelVersion]:
        """Return a population's versions, newest first; raises ``population_unknown``."""
        home = await self._home(population)
        rows = await self._deps.store.populations.version_page(home.name, before, limit + 1)
        views = [await self._view(home, row) for row in rows[:limit]]
        return Page(views, place_after(rows, limit, lambda row: row.version))

    async def get(self, population: str, version: int) -> VersionView:
        """Return one version, also a withdrawn one; raises ``model_unknown``."""
        home = await self._home(population)
        return await self._view(home, await self._row(home, version))

    async def compare(self, population: str, version: int, base: int) -> VersionComparison:
        """Return two versions side by side; their weights are compared on a thread of their own."""
        home = await self._home(population)
        mine, others = await self._row(home, version), await self._row(home, base)
        after, before = (
            await self._models.checkpoint(home.name, version),
            await self._models.checkpoint(home.name, base),
        )
        tensors, distance, max_difference = await self._deps.closing.run(_distances, after, before)
        return VersionComparison(
            version=await self._view(home, mine),
            base=await self._view(home, others),
            distance=distance,
            max_difference=max_difference,
            tensors=tensors,
        )

    async def checkpoint(self, population: str, version: int) -> bytes:
        """Return a version's float32 weights as safetensors; raises ``model_unknown``."""
        row = await self._row(await self._home(population), version)
        return await self._deps.blobs.get(row.checkpoint_key)

    async def download(self, population: str, version: int, weights: ModelWeights) -> Download:
        """Return what phones download of a version; raises ``model_unknown``."""
        row = await self._row(await self._home(population), version)
        return await self._models.download_of(row, weights)

    async def set_pinned(
        self, population: str, version: int, *, is_pinned: bool, audit: AuditContext
    ) -> VersionView:
        """Pin a version, or let it be pruned again; raises ``model_unknown``."""
        home = await self._home(population)
        at = audit.at if is_pinned else None
        row = await self._deps.store.populations.set_pinned(home.name, ModelVersion(version), at, audit=audit)
        if row is None:
            raise ApiError(ProblemCode.MODEL_UNKNOWN, "There is no such model version here.")
        self._models.forget_rows()
        return await self._view(home, row)

    async def revision(self, population: str, version: int) -> str:
        """Return the present revision of a version; raises ``model_unknown``."""
        return _revision(await self._row(await self._home(population), version))

    async def _home(self, population: str) -> PopulationRecord:
        return await self._models.population(await self._models.resolve(population))

    async def _row(self, home: PopulationRecord, version: int) -> VersionRecord:
        row = await self._deps.store.populations.version(home.name, ModelVersion(version))
        if row is None:
            detail = f"Population {home.shown_name!r} has no model version {version}."
            raise ApiError(ProblemCode.MODEL_UNKNOWN, detail)
        return row

    async def _view(self, home: PopulationRecord, row: VersionRecord) -> VersionView:
        origin = None if row.round_id is None else await self._deps.store.rounds.get(row.round_id)
        return VersionView(
            population=home.shown_name,
            version=row.version,
            parent=row.parent,
            round=row.round_id,
            task=None if origin is None else await self._addresses.address(origin.round.task),
            reports=None if origin is None else origin.round.counted,
            created_at=row.created_at,
            is_newest=row.version == home.latest_version,
            download_bytes=row.download_bytes,
            download_sha256=row.download_digest.hex(),
            released_bytes=row.released_bytes,
            anchor_loss=row.anchor_loss,
            figures=_figures(origin),
            withdrawn_at=row.withdrawn_at,
            pinned_at=row.pinned_at,
            note=row.note,
            revision=_revision(row),
        )


def _figures(origin: RoundRecord | None) -> dict[str, float] | None:
    return json.loads(origin.round.figures_json) if origin is not None and origin.round.figures_json else None


def _revision(row: VersionRecord) -> str:
    return revision_of(SubjectKind.VERSION, version_document(row))


def _distances(after: Checkpoint, before: Checkpoint) -> tuple[list[TensorDistance], float, float]:
    layout = ParamLayout.for_config(before.config)
    difference = after.weights.astype(np.float64) - before.weights
    tensors = []
    for name, shape, begin in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        own = slice(begin, begin + int(np.prod(shape)))
        tensors.append(
            TensorDistance(
                name=name,
                shape=list(shape),
                base_norm=float(np.linalg.norm(before.weights[own].astype(np.float64))),
                distance=float(np.linalg.norm(difference[own])),
            )
        )
    return tensors, float(np.linalg.norm(difference)), float(np.abs(difference).max(initial=0.0))

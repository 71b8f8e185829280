"""Rows as operators see them."""

import json
from typing import Any

import msgspec

from keyflock_models.config import ModelConfig
from keyflock_server.aggregation.population_personalisation import stored_personalisation
from keyflock_server.protocol.operator import PopulationView, RoundView, TaskView
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.records import PopulationRecord, RoundRecord, TaskRecord


def population_view(record: PopulationRecord, devices: int) -> PopulationView:
    """A population, and how many devices are enrolled."""
    config = ModelConfig.from_dict(json.loads(record.config_json))
    return PopulationView(
        name=record.name,
        model_version=record.latest_version,
        personalisation=_personalisation(record),
        parameter_count=config.parameter_count,
        vocabulary_size=config.vocabulary_size,
        devices=devices,
    )


def task_view(record: TaskRecord, rounds: list[RoundRecord]) -> TaskView:
    """A task and how far it has come."""
    return TaskView(
        name=record.name,
        population=record.spec.population,
        state=record.status,
        created_at=record.created_at,
        rounds_committed=sum(row.round.is_committed for row in rounds),
        rounds_abandoned=sum(row.round.phase is Phase.ABANDONED for row in rounds),
        rounds_carried=sum(row.round.phase is Phase.CARRIED for row in rounds),
        max_rounds=record.spec.round.max_rounds,
        spec=msgspec.to_builtins(record.spec),
    )


def round_view(record: RoundRecord) -> RoundView:
    """A round: where it stands or how it ended."""
    current = record.round
    return RoundView(
        id=current.id,
        task=current.task,
        sequence=current.sequence,
        phase=current.phase,
        model_version=current.base_version,
        goal=current.spec.round.goal,
        minimum=current.spec.round.minimum_reports,
        assigned=current.assigned,
        counted=current.counted,
        carried=current.carried,
        failed=current.failed,
        weight=current.weight,
        opened_at=current.opened_at,
        deadline_at=current.deadline_at,
        closed_at=current.closed_at,
        result_version=current.result_version,
        detail=current.detail,
        figures=json.loads(current.figures_json) if current.figures_json else None,
    )


def _personalisation(record: PopulationRecord) -> dict[str, Any] | None:
    stored = record.personalisation_json
    if stored is None:
        return None
    found = stored_personalisation(stored)
    return {**msgspec.to_builtins(found), "head": msgspec.to_builtins(found.head)}

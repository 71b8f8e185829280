"""Rows as operators see them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from keyflock_models.config import ModelConfig
from keyflock_server.aggregation.population_personalisation import stored_personalisation
from keyflock_server.protocol.operator import DeviceView, PopulationView, RoundView, StrikeView, TaskView
from keyflock_server.rounds.round import COMMITTED_PHASES, Phase, Round
from keyflock_server.rounds.standing import stored_standing
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord


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


def task_view(record: TaskRecord, phases: Mapping[Phase, int]) -> TaskView:
    """A task and how far it has come.

    Args:
        record: The task.
        phases: How many of its rounds are in each.
    """
    return TaskView(
        name=record.name,
        population=record.spec.population,
        state=record.status,
        created_at=record.created_at,
        rounds_committed=sum(phases.get(phase, 0) for phase in COMMITTED_PHASES),
        rounds_abandoned=phases.get(Phase.ABANDONED, 0),
        rounds_carried=phases.get(Phase.CARRIED, 0),
        max_rounds=record.spec.round.max_rounds,
        spec=msgspec.to_builtins(record.spec),
    )


def round_view(record: RoundRecord, verdicts: Mapping[str, int], trouble: str = "") -> RoundView:
    """A round: where it stands or how it ended, and what was said of its reports.

    Args:
        record: The round.
        verdicts: So many of each.
        trouble: What keeps the task's open round from going on.
    """
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
        expired=_expired(current),
        weight=current.weight,
        opened_at=current.opened_at,
        deadline_at=current.deadline_at,
        closed_at=current.closed_at,
        result_version=current.result_version,
        detail=current.detail if current.is_over else trouble,
        figures=json.loads(current.figures_json) if current.figures_json else None,
        verdicts=dict(verdicts),
    )


def _expired(current: Round) -> int:
    """Those that ran out within the round, and those that ended with it at its deadline."""
    is_at_deadline = current.closed_at is not None and current.closed_at >= current.deadline_at
    return current.expired + (current.outstanding if is_at_deadline and not current.is_async else 0)


def device_view(record: DeviceRecord, now: datetime) -> DeviceView:
    """A device, and what is held against it."""
    standing = stored_standing(record.standing_json)
    last = standing.quarantine
    return DeviceView(
        id=record.id,
        population=record.population,
        app_build=record.app_build,
        locale=record.locale,
        enrolled_at=record.enrolled_at,
        last_seen_at=record.last_seen_at,
        last_contributed_at=record.last_contributed_at,
        silences=record.silences,
        is_quarantined=standing.is_quarantined(now),
        quarantined_until=None if last is None else last.until,
        reason="" if last is None else last.reason,
        quarantined_by="" if last is None else last.by.value,
        quarantines=standing.quarantines,
        strikes=[StrikeView(at=one.at, round=one.round, verdict=one.verdict) for one in standing.strikes],
    )


def _personalisation(record: PopulationRecord) -> dict[str, Any] | None:
    stored = record.personalisation_json
    if stored is None:
        return None
    found = stored_personalisation(stored)
    return {**msgspec.to_builtins(found), "head": msgspec.to_builtins(found.head)}

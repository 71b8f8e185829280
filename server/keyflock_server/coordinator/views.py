"""Views show rows as operators see them."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec

from keyflock_models.network.config import ModelConfig
from keyflock_server.aggregation.norm_scale import scales_from_json
from keyflock_server.aggregation.population_personalisation import personalisation_from_json
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import PopulationName, RoundId
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.numbered_names import base_name, number_of
from keyflock_server.protocol.operator.devices import DeviceView, StrikeView
from keyflock_server.protocol.operator.populations import PopulationView
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator.tasks import TaskView
from keyflock_server.rounds.quarantine import stored_quarantine
from keyflock_server.rounds.round import COMMITTED_PHASES, Phase, Round
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import FOREIGN_TABLES
from keyflock_server.storage.audit_documents import device_document, revision_of
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord


def population_view(
    record: PopulationRecord, devices: int, names: Collection[PopulationName]
) -> PopulationView:
    """Return a population's view, with the number of its devices and all names that mean it."""
    config = ModelConfig.from_dict(json.loads(record.config_json))
    return PopulationView(
        name=record.shown_name,
        id=record.name,
        former_names=[one for one in names if one != record.shown_name and number_of(one) is None],
        model_version=record.latest_version,
        personalisation=_personalisation(record),
        parameter_count=config.parameter_count,
        vocabulary_size=config.vocabulary_size,
        devices=devices,
        anchor_text=anchor_text(record),
        anchor_loss_chosen=record.anchor_loss_chosen,
        archived_at=record.archived_at,
        revision=record.revision,
    )


def anchor_text(population: PopulationRecord) -> str:
    """Describe what the population's versions are checked on."""
    if population.anchor_tokens is None:
        return "no anchor text: versions are checked by the length of their steps alone"
    return f"{population.anchor_tokens} words of public text"


def task_view(
    record: TaskRecord,
    population: PopulationRecord,
    phases: Mapping[Phase, int],
    held_round: RoundId | None = None,
    waiting_reason: str = "",
    stopping: str = "",
    *,
    address: str,
) -> TaskView:
    """Return a task's view, with its progress.

    Args:
        record: The task.
        population: Its population.
        phases: The number of its rounds in each phase.
        held_round: The round that waits for an operator.
        waiting_reason: What its reports that are not acknowledged yet wait for, or what the task waits for.
        stopping: How far its ``[stop_when]`` is from ending it.
        address: How operators name it.
    """
    spec = with_ids(record.spec, base_name(record.name), population.shown_name)
    return TaskView(
        name=address,
        id=record.name,
        population=population.shown_name,
        state=record.status,
        created_at=record.created_at,
        rounds_committed=sum(phases.get(phase, 0) for phase in COMMITTED_PHASES),
        rounds_abandoned=phases.get(Phase.ABANDONED, 0),
        rounds_carried=phases.get(Phase.CARRIED, 0),
        max_rounds=record.spec.round.max_rounds,
        held_round=held_round,
        waiting_reason=waiting_reason,
        stopping=stopping,
        anchor_text=anchor_text(population) if record.spec.kind is TaskKind.TRAIN else "",
        is_unsafe_flush=record.spec.round.is_unsafe_flush,
        norm_scales=_norm_scales(record.norm_scales_json),
        pause_reason=record.pause_reason,
        resumes_at=record.resumes_at,
        end_reason=record.end_reason,
        archived_at=record.archived_at,
        revision=record.revision,
        spec=_tables_in_use(spec),
    )


def _tables_in_use(spec: TaskSpec) -> dict[str, Any]:
    """Return the task's tables without those that mean nothing to its kind."""
    tables: dict[str, Any] = msgspec.to_builtins(spec)
    for name in FOREIGN_TABLES[spec.kind]:
        tables.pop(name, None)
    if spec.kind is TaskKind.EVALUATE:
        tables["evaluating"] = msgspec.to_builtins(spec.comparison)
    if "personalising" in tables:  # the protocol leaves defaults out
        tables["personalising"]["heads"] = [msgspec.structs.asdict(head) for head in spec.personalising.heads]
    return tables


def round_view(
    record: RoundRecord,
    population: PopulationRecord,
    verdicts: Mapping[str, int],
    last_error: str = "",
    waiting_reason: str = "",
    *,
    task: str,
) -> RoundView:
    """Return a round's view, with the verdicts on its reports.

    Args:
        record: The round.
        population: Its population.
        verdicts: The number of each verdict.
        last_error: Why the task's open round could not go on.
        waiting_reason: What its reports that are not acknowledged yet wait for.
        task: How operators name its task.
    """
    current = record.round
    return RoundView(
        id=current.id,
        task=task,
        sequence=current.sequence,
        phase=current.phase,
        model_version=current.base_version,
        baseline_version=next(iter(current.spec.comparison.versions[1:]), None),
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
        detail=current.detail if current.is_over else f"{current.detail} {last_error}".strip(),
        waiting_reason=waiting_reason,
        figures=json.loads(current.figures_json) if current.figures_json else None,
        anchor_text=anchor_text(population) if current.spec.kind is TaskKind.TRAIN else "",
        verdicts=dict(verdicts),
        is_unsafe_flush=current.spec.round.is_unsafe_flush,
        norm_scales=_norm_scales(record.norm_scales_json),
    )


def _expired(current: Round) -> int:
    """Return how many assignments expired within the round, or ended with it at its deadline."""
    is_at_deadline = current.closed_at is not None and current.closed_at >= current.deadline_at
    return current.expired + (current.outstanding if is_at_deadline and not current.is_async else 0)


def device_view(record: DeviceRecord, population: str, now: datetime) -> DeviceView:
    """Return a device's view, with its quarantine and violations, and its population's name."""
    quarantine = stored_quarantine(record.standing_json)
    last = quarantine.last
    return DeviceView(
        id=record.id,
        population=population,
        app_build=record.app_build,
        locale=record.locale,
        tier=record.tier,
        tags=list(record.tags),
        enrolled_at=record.enrolled_at,
        revision=revision_of(SubjectKind.DEVICE, device_document(record)),
        last_seen_at=record.last_seen_at,
        last_contributed_at=record.last_contributed_at,
        silences=record.silences,
        is_quarantined=quarantine.is_quarantined(now),
        quarantined_until=None if last is None else last.until,
        reason="" if last is None else last.reason,
        quarantined_by="" if last is None else last.by.value,
        quarantines=quarantine.quarantines,
        strikes=[
            StrikeView(at=one.at, round=one.round, verdict=one.verdict) for one in quarantine.violations
        ],
    )


def _norm_scales(stored: bytes | None) -> dict[str, float]:
    return {table: known.scale for table, known in scales_from_json(stored).items()}


def _personalisation(record: PopulationRecord) -> dict[str, Any] | None:
    stored = record.personalisation_json
    if stored is None:
        return None
    found = personalisation_from_json(stored)
    return {**msgspec.to_builtins(found), "head": msgspec.to_builtins(found.head)}

"""Views show releases as operators see them."""

import json

import msgspec

from keyflock_server.coordinator.release_steps import state_of
from keyflock_server.protocol.operator.releases import GateView, ReleaseStep, ReleaseView
from keyflock_server.releases.gate import GateReport
from keyflock_server.releases.policies import policy_from_json
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import PopulationRecord


def release_view(population: PopulationRecord, newest: ReleaseRecord) -> ReleaseView:
    """Return what a population's keyboards are served, by the newest row of its history."""
    return ReleaseView(
        population=population.shown_name,
        phase=state_of(newest).phase,
        version=newest.version,
        candidate=newest.candidate,
        percent=newest.percent,
        newest=population.latest_version,
        since=newest.at,
        operator=newest.operator,
        reason=newest.reason,
        revision=newest.sequence,
        policy=policy_from_json(population.release_policy_json),
    )


def release_step(row: ReleaseRecord) -> ReleaseStep:
    """Return the step that a row of a history says."""
    return ReleaseStep(
        sequence=row.sequence,
        at=row.at,
        action=row.action,
        version=row.version,
        candidate=row.candidate,
        percent=row.percent,
        operator=row.operator,
        reason=row.reason,
        evidence=None if row.evidence_json is None else json.loads(row.evidence_json),
    )


def gate_view(report: GateReport) -> GateView:
    """Return what the gate found."""
    return msgspec.convert(msgspec.to_builtins(report), GateView)

"""What this machine can do at most of what a stream asked of the server, measured right after it.

The handlers that do as little as can be done with the same bytes are those of ``make bench-server``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keyflock_compression import decode
from keyflock_load_tests import phone_requests
from keyflock_load_tests.cores import Cores
from keyflock_load_tests.payload import stream_containers
from keyflock_load_tests.result import Ceiling
from keyflock_load_tests.scenario import Scenario
from keyflock_load_tests.traffic import Requests
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.plans import TrainingPlan

_SECONDS: Final = 2.0
_CONNECTIONS: Final = 64
#: As long as a device's token is.
_TOKEN: Final = b"x" * 300
_ANSWER: Final = wire.encode(
    messages.Refusal(
        reason=messages.RefusalReason.NOT_SAMPLED,
        return_window=messages.ReturnWindow(min_s=3_600.0, max_s=7_200.0),
    )
)


def measure_ceilings(
    scenario: Scenario, figures: Mapping[str, Mapping[str, float]], folder: Path, cores: Cores
) -> list[Ceiling]:
    """Return the ceilings of a scenario with a stream, beside what the server reached; else none."""
    if scenario.stream is None or scenario.server.replicas > 1:
        return []
    # Deferred: benchmarks are made of this package.
    from benchmarks.server_ceilings import bare_server, dense_add_ms, syncs_per_s
    from benchmarks.server_rig import on_cores, play

    config = ModelConfig.named(scenario.task.model_size)
    layout = ParamLayout.for_config(config)
    containers = stream_containers(layout, scenario.seed)
    norm = decode(containers[0], layout).l2_norm
    plan = {"duration_s": _SECONDS, "connections": _CONNECTIONS}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        on_cores(cores) as (generator, _),
        bare_server(folder / "bare", cores, answer=_ANSWER, model=b"", config=config, norm=norm) as bare,
    ):
        check_in = Requests(calls.CHECK_IN.name, phone_requests.check_ins([_TOKEN]))
        answered = play(generator, bare.answering, check_in, **plan).record
        check_ins_per_s = figures.get(calls.CHECK_IN.name, {}).get("per_s")
        found = [
            Ceiling(
                name="bare handler, check-ins of as many bytes",
                per_s=answered.per_s(calls.CHECK_IN.name),
                reached_per_s=check_ins_per_s,
            ),
            Ceiling(
                name="generator, by its CPU time for such a check-in",
                per_s=answered.generator_per_s(calls.CHECK_IN.name),
                reached_per_s=check_ins_per_s,
            ),
        ]
        if scenario.stream.has_reports:
            report = Requests(calls.REPORT.name, [_bare_report(container) for container in containers])
            summed = play(generator, bare.summing, report, **plan).record
            reports_per_s = figures.get(calls.REPORT.name, {}).get("per_s")
            found += [
                Ceiling(
                    name="bare handler that decodes, judges and adds the same reports",
                    per_s=summed.per_s(calls.REPORT.name),
                    reached_per_s=reports_per_s,
                ),
                Ceiling(
                    name="generator, by its CPU time for such a report",
                    per_s=summed.generator_per_s(calls.REPORT.name),
                    reached_per_s=reports_per_s,
                ),
                Ceiling(name="additions of a dense delta", per_s=1e3 / dense_add_ms(layout.size)),
            ]
    flushes = figures.get("flush", {}).get("count")
    found.append(
        Ceiling(
            name="durable writes of 4 KB, one after the other",
            per_s=syncs_per_s(folder),
            reached_per_s=None if flushes is None else flushes / scenario.arrivals.duration_s,
        )
    )
    return found


def _bare_report(container: bytes) -> bytes:
    """Return a report as long as a real one; there is no such assignment."""
    assignment = messages.Assignment(
        id=AssignmentId("a" * 24),
        token=_TOKEN.decode("ascii"),
        task=TaskName("steady"),
        round=RoundId("steady-1"),
        model_version=ModelVersion(0),
        model_digest=bytes(32),
        layout=bytes(16),
        plan=TrainingPlan(learning_rate=0.3),
        codec={},
        seed=0,
        expires_in_s=60.0,
    )
    return phone_requests.report(_TOKEN, assignment, container)

"""What is measured of a server: peaks in turn with their ceilings, latency below the peak, and beyond it."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Final

import numpy as np

from benchmarks.server_ceilings import BareServer
from benchmarks.server_phones import CHECK_IN, MODEL, REPORT, AssignedPhones, answers_by_kind
from benchmarks.server_rig import CalledProcess, EnrolledFleet, MeasuredRun, ServerRig, play
from keyflock_load_tests import phone_requests
from keyflock_load_tests.traffic import (
    JoinedRequests,
    Requests,
    TrafficRecord,
    TrafficScript,
    steady_instants,
)
from keyflock_server.protocol.messages import RefusalReason

CHECK_IN_CONNECTIONS: Final = 64
DOWNLOAD_CONNECTIONS: Final = 16
OPEN_CONNECTIONS: Final = 1_024
#: The share of the peak at which latency is measured.
BELOW_PEAK: Final = 0.7
BEYOND_PEAK: Final = 2.0
#: The share of the peak that comes once the overload is over.
AFTERWARDS: Final = 0.3
#: A phone gives up when it has no connection after this time.
PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class MeasureSizes:
    """How long and how often is measured."""

    runs: int = 5
    #: Duration of one closed loop.
    seconds: float = 2.5
    #: Duration of one open loop at a share of the peak.
    open_s: float = 4.0
    #: Duration of the overload, and of what follows.
    overload_s: float = 5.0
    recovery_s: float = 4.0
    #: A report waits for its flush: with few connections the wait would be measured, and not the work.
    report_connections: int = 256


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """The figures of one closed loop."""

    per_s: float
    #: The target's CPU time a call.
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    #: How many calls a second the generator could make.
    generator_per_s: float

    @classmethod
    def of(cls, run: MeasuredRun, name: str) -> "LoopFigures":
        """Return the figures of a run of calls of this name."""
        latencies = run.record.histogram(name)
        return cls(
            run.record.per_s(name),
            run.cpu_ms(name),
            latencies.quantile_ms(0.5),
            latencies.quantile_ms(0.99),
            run.record.generator_per_s(name),
        )


@dataclass(slots=True)
class Peak:
    """Closed loops of one kind of call, in turn with the same bytes to a bare handler."""

    ours: list[LoopFigures] = field(default_factory=list)
    bare: list[LoopFigures] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """The median of calls a second."""
        return statistics.median(one.per_s for one in self.ours)

    @property
    def cpu_ms(self) -> float:
        """The median CPU time a call."""
        return statistics.median(one.cpu_ms for one in self.ours)

    @property
    def bare_per_s(self) -> float:
        """The same of the bare handler."""
        return statistics.median(one.per_s for one in self.bare)

    @property
    def bare_cpu_ms(self) -> float:
        """The same of the bare handler."""
        return statistics.median(one.cpu_ms for one in self.bare)

    @property
    def generator_per_s(self) -> float:
        """How many calls a second the generator could make, by its CPU time for each."""
        return statistics.median(one.generator_per_s for one in self.bare or self.ours)

    @property
    def rate_over_bare(self) -> float:
        """The median of the pairs' ratios of calls a second."""
        pairs = zip(self.ours, self.bare, strict=True)
        return statistics.median(ours.per_s / bare.per_s for ours, bare in pairs)

    @property
    def cpu_over_bare(self) -> float:
        """The median of the pairs' ratios of CPU time."""
        pairs = zip(self.ours, self.bare, strict=True)
        return statistics.median(ours.cpu_ms / bare.cpu_ms for ours, bare in pairs)


@dataclass(frozen=True, slots=True)
class OpenLoopFigures:
    """The figures of an open loop at a fixed rate; latencies are those of good answers."""

    offered_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    #: How late the generator was with 99 of 100 calls.
    lateness_p99_ms: float
    #: How many calls of 100 got no good answer.
    failed_percent: float

    @classmethod
    def of(cls, run: MeasuredRun, name: str, offered_per_s: float) -> "OpenLoopFigures":
        """Return the figures of a run of calls of this name."""
        latencies, record = run.record.histogram(name), run.record
        return cls(
            offered_per_s=offered_per_s,
            p50_ms=latencies.quantile_ms(0.5),
            p99_ms=latencies.quantile_ms(0.99),
            p999_ms=latencies.quantile_ms(0.999),
            max_ms=latencies.quantile_ms(1.0),
            lateness_p99_ms=1e3 * float(np.quantile(record.lateness_s(), 0.99)) if len(record.call) else 0.0,
            failed_percent=100.0 * (1.0 - _share(record.of(name, only_ok=True))),
        )

    @classmethod
    def median_of(cls, runs: Sequence["OpenLoopFigures"]) -> "OpenLoopFigures":
        """Return the median of each figure over several runs."""
        return cls(*map(statistics.median, zip(*map(astuple, runs), strict=True)))


@dataclass(frozen=True, slots=True)
class OverloadFigures:
    """What happens when twice the peak is offered, and afterwards."""

    offered_per_s: float
    #: Successful calls a second, as a share of the peak.
    goodput_ratio: float
    #: The share of calls that were refused because of the load; that found no connection in time, or got no
    #: answer.
    refused_ratio: float
    unanswered_ratio: float
    #: The server's CPU time for each call that it answered, in the whole run.
    cpu_ms: float
    #: From the end of the overload until calls are answered as promptly as before it.
    recovery_s: float


def peak_of_refused(
    rig: ServerRig,
    fleet: EnrolledFleet,
    bare: BareServer | None,
    sizes: MeasureSizes,
    kinds: Counter[str],
) -> Peak:
    """Measure check-ins of phones that are not in the sample; ``kinds`` gets the answers."""
    peak = Peak()
    for _ in range(sizes.runs):
        run, requests = _refused(rig, fleet, seconds=sizes.seconds)
        found = answers_by_kind(run.record)
        kinds.update(found)
        figures = LoopFigures.of(run, CHECK_IN)
        # What else was answered, such as a refusal for the load, may be cheaper.
        share = found[RefusalReason.NOT_SAMPLED] / max(1, found.total())
        peak.ours.append(replace(figures, per_s=share * figures.per_s))
        if bare is not None:
            script = Requests(CHECK_IN, requests)
            loop = _closed(rig, bare.answering, script, sizes.seconds, CHECK_IN_CONNECTIONS)
            peak.bare.append(LoopFigures.of(loop, CHECK_IN))
    return peak


def _refused(rig: ServerRig, fleet: EnrolledFleet, *, seconds: float) -> tuple[MeasuredRun, JoinedRequests]:
    visits = min(len(fleet.tokens), int(30_000 * seconds))
    requests = phone_requests.check_ins(fleet.take(visits))
    run = rig.play(
        Requests(CHECK_IN, requests, keeps_answers=True),
        visits=visits,
        duration_s=seconds,
        connections=CHECK_IN_CONNECTIONS,
    )
    fleet.give_back(visits - run.record.begun)
    return run, requests


def refused_at(rig: ServerRig, fleet: EnrolledFleet, per_s: float, sizes: MeasureSizes) -> OpenLoopFigures:
    """Measure check-ins of phones that are not in the sample, at a fixed rate."""
    due_s, found = steady_instants(per_s, sizes.open_s), []
    for _ in range(sizes.runs):
        script = Requests(CHECK_IN, phone_requests.check_ins(fleet.take(len(due_s))))
        run = rig.play(script, due_s=due_s, duration_s=sizes.open_s, connections=OPEN_CONNECTIONS)
        found.append(OpenLoopFigures.of(run, CHECK_IN, per_s))
    return OpenLoopFigures.median_of(found)


def peak_of_assigned(phones: AssignedPhones, sizes: MeasureSizes) -> Peak:
    """Measure check-ins that get work."""
    peak = Peak()
    for _ in range(sizes.runs):
        run = phones.check_in(
            duration_s=sizes.seconds, visits=int(8_000 * sizes.seconds), connections=CHECK_IN_CONNECTIONS
        )
        peak.ours.append(LoopFigures.of(run, CHECK_IN))
    return peak


def peak_of_reports(
    rig: ServerRig, phones: AssignedPhones, bare: BareServer | None, sizes: MeasureSizes
) -> Peak:
    """Measure reports, in turn with the handler that decodes, judges and adds the same ones."""
    probe = phones.report(
        phones.ready(4 * sizes.report_connections), duration_s=60.0, connections=sizes.report_connections
    )
    per_s, peak = probe.record.per_s(REPORT), Peak()
    for _ in range(sizes.runs):
        ready = phones.ready(int(1.3 * per_s * sizes.seconds) + sizes.report_connections)
        run = phones.report(ready, duration_s=sizes.seconds, connections=sizes.report_connections)
        phones.put_back(ready, run.record)
        peak.ours.append(LoopFigures.of(run, REPORT))
        per_s = max(per_s, peak.ours[-1].per_s)
        if bare is not None:
            script = Requests(REPORT, ready.requests[:2_048])
            loop = _closed(rig, bare.summing, script, sizes.seconds, sizes.report_connections)
            peak.bare.append(LoopFigures.of(loop, REPORT))
    return peak


def reports_read_and_dropped(
    rig: ServerRig, phones: AssignedPhones, bare: BareServer, sizes: MeasureSizes
) -> Peak:
    """Measure a handler that only reads reports: what the generator and HTTP can do with these bytes."""
    ready = phones.ready(sizes.report_connections)
    script = Requests(REPORT, ready.requests)
    loop = _closed(rig, bare.answering, script, sizes.seconds, sizes.report_connections)
    phones.put_back(ready, None)
    return Peak([], [LoopFigures.of(loop, REPORT)])


def reports_at(phones: AssignedPhones, per_s: float, sizes: MeasureSizes) -> OpenLoopFigures:
    """Measure reports at a fixed rate."""
    due_s, found = steady_instants(per_s, sizes.open_s), []
    for _ in range(sizes.runs):
        ready = phones.ready(len(due_s))
        run = phones.report(ready, due_s=due_s, duration_s=sizes.open_s, connections=OPEN_CONNECTIONS)
        found.append(OpenLoopFigures.of(run, REPORT, per_s))
    return OpenLoopFigures.median_of(found)


def peak_of_downloads(
    rig: ServerRig, fleet: EnrolledFleet, bare: BareServer | None, sizes: MeasureSizes, version: int = 0
) -> Peak:
    """Measure downloads of the whole model, in turn with a handler that sends the same bytes."""
    peak = Peak()
    requests = phone_requests.downloads(fleet.take(1_024), version)
    for _ in range(sizes.runs):
        for target, figures in (
            (rig.target, peak.ours),
            (None if bare is None else bare.answering, peak.bare),
        ):
            if target is not None:
                loop = _closed(rig, target, Requests(MODEL, requests), sizes.seconds, DOWNLOAD_CONNECTIONS)
                figures.append(LoopFigures.of(loop, MODEL))
    return peak


def overload_of_check_ins(
    rig: ServerRig, fleet: EnrolledFleet, peak_per_s: float, sizes: MeasureSizes, usual_ms: float
) -> OverloadFigures:
    """Offer twice the peak of check-ins, then little, and see."""
    due_s = _overload_instants(peak_per_s, sizes)
    script = Requests(
        CHECK_IN, phone_requests.check_ins(fleet.take(min(len(due_s), len(fleet.tokens)))), keeps_answers=True
    )
    run = rig.play(script, **_overload_plan(due_s, sizes))
    is_refused = {visit: b"overloaded" in body for visit, body in run.record.books.items()}
    return _overload_figures(run, CHECK_IN, peak_per_s, sizes, usual_ms, is_refused)


def overload_of_reports(
    phones: AssignedPhones, peak_per_s: float, sizes: MeasureSizes, usual_ms: float
) -> OverloadFigures:
    """Offer twice the peak of reports, then little, and see."""
    due_s = _overload_instants(peak_per_s, sizes)
    ready = phones.ready(len(due_s))
    run = phones.report(ready, **_overload_plan(due_s, sizes))
    phones.put_back(ready, run.record)
    return _overload_figures(run, REPORT, peak_per_s, sizes, usual_ms, {})


def _overload_instants(peak_per_s: float, sizes: MeasureSizes) -> np.ndarray:
    high = steady_instants(BEYOND_PEAK * peak_per_s, sizes.overload_s)
    low = steady_instants(AFTERWARDS * peak_per_s, sizes.recovery_s, begins_s=sizes.overload_s)
    return np.concatenate([high, low])


def _overload_plan(due_s: np.ndarray, sizes: MeasureSizes) -> dict[str, object]:
    return {
        "due_s": due_s,
        "duration_s": sizes.overload_s + sizes.recovery_s,
        "connections": OPEN_CONNECTIONS,
        "patience_s": PATIENCE_S,
    }


def _overload_figures(
    run: MeasuredRun,
    name: str,
    peak_per_s: float,
    sizes: MeasureSizes,
    usual_ms: float,
    is_refused: dict[int, bool],
) -> OverloadFigures:
    record = run.record
    refused = [is_refused.get(visit, False) for visit in record.visit.tolist()]
    is_good = record.of(name, only_ok=True) & ~np.array(refused, np.bool_)
    is_early = record.due_s < sizes.overload_s
    answered = record.of(name) & (record.status > 0)
    return OverloadFigures(
        offered_per_s=BEYOND_PEAK * peak_per_s,
        goodput_ratio=goodput_per_s(record, is_good, sizes.overload_s) / max(1e-9, peak_per_s),
        refused_ratio=_share((answered & ~is_good)[is_early]),
        unanswered_ratio=_share((record.status <= 0)[is_early]),
        cpu_ms=run.cpu_ms(name),
        recovery_s=recovery_s(record, name, sizes.overload_s, limit_s=2e-3 * usual_ms),
    )


def goodput_per_s(record: TrafficRecord, is_good: np.ndarray, overload_s: float) -> float:
    """Return the good answers a second, until the last of those that were due in the overload.

    What waits in the server when the overload ends is work of the overload, too. Counting what has ended by
    then would leave out what is about to be flushed: a second of work in a few seconds.
    """
    ended_s = record.ended_s[is_good]
    until_s = max(overload_s, float(ended_s[record.due_s[is_good] < overload_s].max(initial=0.0)))
    return float(np.count_nonzero(ended_s <= until_s)) / until_s


def _share(chosen: np.ndarray) -> float:
    return float(np.mean(chosen)) if chosen.size else 0.0


def recovery_s(record: TrafficRecord, name: str, overload_ends_s: float, *, limit_s: float) -> float:
    """Return how long after an overload the last call was due that was slow or failed; 0 if none was.

    Args:
        record: The run.
        name: The calls.
        overload_ends_s: When the overload ended.
        limit_s: A call that takes longer is slow.
    """
    later = record.of(name) & (record.due_s >= overload_ends_s)
    is_slow = (record.ended_s - record.due_s > limit_s) | (record.status <= 0) | (record.status >= 300)
    due_s = record.due_s[later & is_slow]
    return float(due_s.max() - overload_ends_s) if due_s.size else 0.0


def _closed(
    rig: ServerRig, target: CalledProcess, script: TrafficScript, seconds: float, connections: int
) -> MeasuredRun:
    return play(
        rig.generator,
        target,
        script,
        duration_s=seconds,
        connections=connections,
        reads_bodies=False,
    )

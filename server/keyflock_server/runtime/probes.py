"""The probes of load balancers and Prometheus: whether the process is healthy, whether ready, its metrics."""

import asyncio
from collections.abc import Mapping

from keyflock_server.http.application import Probe
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.protocol.calls import Response
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.telemetry import metrics as exposition
from keyflock_server.telemetry.metrics import Metrics


class Probes:
    """Answers the three probe addresses, which need no credentials."""

    def __init__(self, readiness: Readiness, heartbeat: Heartbeat, metrics: Metrics) -> None:
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._metrics = metrics

    def by_path(self, *, with_metrics: bool) -> Mapping[str, Probe]:
        """Return the probes by their paths; the metrics only for the operators' port."""
        probes: dict[str, Probe] = {"/healthz": self.healthz, "/readyz": self.readyz}
        return {**probes, "/metrics": self.metrics} if with_metrics else probes

    def healthz(self) -> Response:
        """Return 200 while the process works; 503 when its loop hangs and it should be replaced."""
        if self._readiness.state is ServerState.READY and self._heartbeat.is_stalled:
            return _plain(503, f"stalled: no pass for {self._heartbeat.age_s:.0f} s")
        return _plain(200, "ok")

    def readyz(self) -> Response:
        """Return 200 while phones should be sent here; 503 while starting, stopping or stalled."""
        if self._readiness.state is not ServerState.READY:
            return _plain(503, self._readiness.state)
        if self._heartbeat.is_stalled:
            return _plain(503, "stalled")
        return _plain(200, "ready")

    def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        self._metrics.event_loop_tasks.set(len(asyncio.all_tasks()))
        self._metrics.ready.set(self._readiness.state is ServerState.READY and not self._heartbeat.is_stalled)
        self._metrics.tick_age_s.set(self._heartbeat.age_s)
        return Response(200, {"content-type": exposition.CONTENT_TYPE}, self._metrics.exposition())


def _plain(status: int, text: str) -> Response:
    headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
    return Response(status, headers, f"{text}\n".encode())

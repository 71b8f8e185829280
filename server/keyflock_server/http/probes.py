"""What a load balancer and Prometheus ask, answered truthfully: alive, ready for work, and the figures."""

from aiohttp import web

from keyflock_server.http.heartbeat import Heartbeat
from keyflock_server.http.readiness import Readiness, Stage
from keyflock_server.telemetry import metrics as exposition
from keyflock_server.telemetry.metrics import Metrics


class Probes:
    """The three addresses, served beside the planes and outside their gates."""

    def __init__(self, readiness: Readiness, heartbeat: Heartbeat, metrics: Metrics) -> None:
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._metrics = metrics

    def add_to(self, application: web.Application, *, with_metrics: bool) -> None:
        """Serve the probes; the figures only where operators are."""
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        if with_metrics:
            application.router.add_get("/metrics", self.metrics)

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while the process is worth keeping; 503 when its loop hangs and it should be replaced."""
        if self._readiness.stage is Stage.READY and self._heartbeat.is_stalled:
            return _plain(503, f"stalled: no pass for {self._heartbeat.age_s:.0f} s")
        return _plain(200, "ok")

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 while phones should be sent here; 503 while starting, stopping or stalled."""
        if self._readiness.stage is not Stage.READY:
            return _plain(503, self._readiness.stage)
        if self._heartbeat.is_stalled:
            return _plain(503, "stalled")
        return _plain(200, "ready")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus' text format."""
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": exposition.CONTENT_TYPE}
        )


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={"Cache-Control": "no-store"})

"""Renewed certificates are taken up without a restart, and one that ends soon is warned of.

The files may be on a disk that does not answer. So each look at them has a thread of its own, for which a
pass waits a moment only, and there is one look at a port's files at a time.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.runtime.certificates import Reload, ServerCertificate
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: Pause between two looks at the files; what a renewal has written is used after one or two of them.
LOOK_INTERVAL_S: Final = 5.0
#: How long a pass waits for a look; a healthy disk takes a few milliseconds.
MAX_WAIT_S: Final = 0.2
#: A look that takes longer than this is stuck: the disk does not answer.
STUCK_AFTER_S: Final = 30.0
#: From so long before its end on, a certificate is warned of, once a day.
WARNED_BEFORE: Final = timedelta(days=14)
_WARNING_INTERVAL_S: Final = 86_400.0

_log: Final = logger("keyflock.server")


class CertificateWatch:
    """Reloads the certificates of the ports, and says in metrics and log how they stand.

    Args:
        certificates: The certificates by the port's label: ``phones``, ``operators``.
        metrics: Shows when they end, and whether what the files hold can be used.
        clock: Returns the current time, aware UTC.
        monotonic: A clock in seconds that never goes back.
        max_wait_s: How long a pass waits for a look at the files of a port.
    """

    def __init__(
        self,
        certificates: Mapping[str, ServerCertificate],
        metrics: Metrics,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._ports = [_WatchedPort(*one, metrics, clock, monotonic) for one in certificates.items()]
        self._monotonic = monotonic
        self._max_wait_s = max_wait_s
        self._looked_at_s = -math.inf

    async def start(self) -> None:
        """Say how the certificates stand."""
        for port in self._ports:
            port.show()

    async def tick(self) -> None:
        """Reload what was renewed, if the last look is long enough ago.

        Guarantees:
            The pass waits for the files ``max_wait_s`` a port at most, and not at all for a look that an
            earlier pass has begun.
        """
        for port in self._ports:
            port.take_result()
        now_s = self._monotonic()
        if now_s - self._looked_at_s < LOOK_INTERVAL_S:
            return
        self._looked_at_s = now_s
        for port in self._ports:
            if (reading := port.new_reading()) is not None:
                await _wait_for(reading, self._max_wait_s)
                port.take_result()

    async def stop(self) -> None:
        """Do nothing; a look that is stuck ends with the process."""


class _WatchedPort:
    """One port's certificate, the look at its files that is under way, and what was said of them."""

    def __init__(
        self,
        label: str,
        certificate: ServerCertificate,
        metrics: Metrics,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._label = label
        self._certificate = certificate
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._reading: Future[Reload] | None = None
        self._began_at_s = 0.0
        self._is_stuck = False
        self._warned_at_s = -math.inf

    def new_reading(self) -> Future[Reload] | None:
        """Begin a look at the files, and return it; None while one is under way."""
        if self._reading is not None:
            return None
        self._reading, self._began_at_s = _in_own_thread(self._certificate.reload), self._monotonic()
        return self._reading

    def take_result(self) -> None:
        """Say what a look has found that is over, or that it is stuck; raises what the look has raised."""
        reading = self._reading
        if reading is None:
            return
        if not reading.done():
            if not self._is_stuck and self._monotonic() - self._began_at_s >= STUCK_AFTER_S:
                self._is_stuck = True
                _log.error(
                    "the certificate's files cannot be read: their disk does not answer", port=self._label
                )
                self.show()
            return
        self._reading = None
        if self._is_stuck:
            self._is_stuck = False
            _log.info("the certificate's files can be read again", port=self._label)
        match reading.result():
            case Reload.LOADED:
                _log.info("the certificate was renewed", port=self._label)
            case Reload.FAILED:
                _log.error(
                    "the renewed certificate cannot be used; the one before it is still shown",
                    port=self._label,
                    detail=self._certificate.problem,
                )
            case Reload.UNCHANGED:
                pass
        self.show()

    def show(self) -> None:
        """Show in the metrics how the certificate and its files stand, and warn of an end that is near."""
        expires_at = self._certificate.expires_at
        self._metrics.certificate_expires_at.labels(self._label).set(expires_at.timestamp())
        self._metrics.unusable_certificates.labels(self._label).set(bool(self._certificate.problem))
        self._metrics.stuck_certificates.labels(self._label).set(self._is_stuck)
        left, now_s = expires_at - self._clock(), self._monotonic()
        if left < WARNED_BEFORE and now_s - self._warned_at_s >= _WARNING_INTERVAL_S:
            self._warned_at_s = now_s
            _log.warning(
                "the certificate has expired: nobody connects"
                if left < timedelta(0)
                else "the certificate expires soon",
                port=self._label,
                days_left=left.days,
            )


def _in_own_thread(read: Callable[[], Reload]) -> Future[Reload]:
    """Run a look in a thread that keeps neither the process nor the shared threads from ending."""
    future: Future[Reload] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = read()
        except BaseException as error:  # noqa: BLE001 - the pass that takes the result raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="keyflock-certificates", daemon=True).start()
    return future


async def _wait_for(reading: Future[Reload], within_s: float) -> None:
    waiter = asyncio.wrap_future(reading)
    await asyncio.wait({waiter}, timeout=within_s)
    if waiter.done():
        waiter.exception()  # seen: whoever takes the result raises it
    else:
        waiter.cancel()

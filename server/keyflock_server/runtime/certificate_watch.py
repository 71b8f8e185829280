"""Renewed certificates are taken up without a restart, and one that ends soon is warned of."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.runtime.certificates import Reload, ServerCertificate
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: Pause between two looks at the files; what a renewal has written is used after one or two of them.
LOOK_INTERVAL_S: Final = 5.0
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
    """

    def __init__(
        self,
        certificates: Mapping[str, ServerCertificate],
        metrics: Metrics,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._certificates = certificates
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._looked_at_s = -math.inf
        self._warned_at_s = dict.fromkeys(certificates, -math.inf)

    async def start(self) -> None:
        """Say how the certificates stand."""
        for port in self._certificates:
            self._show(port)

    async def tick(self) -> None:
        """Reload what was renewed, if the last look is long enough ago."""
        now_s = self._monotonic()
        if now_s - self._looked_at_s < LOOK_INTERVAL_S:
            return
        self._looked_at_s = now_s
        for port, certificate in self._certificates.items():
            # In a thread, because the files may be on another machine.
            match await asyncio.to_thread(certificate.reload):
                case Reload.LOADED:
                    _log.info("the certificate was renewed", port=port)
                case Reload.FAILED:
                    _log.error(
                        "the renewed certificate cannot be used; the one before it is still shown",
                        port=port,
                        detail=certificate.problem,
                    )
                case Reload.UNCHANGED:
                    pass
            self._show(port)

    async def stop(self) -> None:
        """Do nothing; there is nothing to finish."""

    def _show(self, port: str) -> None:
        certificate = self._certificates[port]
        self._metrics.certificate_expires_at.labels(port).set(certificate.expires_at.timestamp())
        self._metrics.unusable_certificates.labels(port).set(bool(certificate.problem))
        left, now_s = certificate.expires_at - self._clock(), self._monotonic()
        if left < WARNED_BEFORE and now_s - self._warned_at_s[port] >= _WARNING_INTERVAL_S:
            self._warned_at_s[port] = now_s
            _log.warning(
                "the certificate has expired: nobody connects"
                if left < timedelta(0)
                else "the certificate expires soon",
                port=port,
                days_left=left.days,
            )

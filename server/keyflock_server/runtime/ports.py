"""The two ports of a server, each with limits of its own: phones never block operators, nor these phones."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from keyflock_server.descriptors import descriptor_limit, max_operator_connections, max_phone_connections
from keyflock_server.http.application import Probe, application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import Connections
from keyflock_server.http.endpoint_group import EndpointGroup
from keyflock_server.http.host_names import is_loopback, is_own_name
from keyflock_server.protocol.operator.call import MAX_CHECKPOINT_BYTES, MAX_TASK_BYTES
from keyflock_server.runtime.certificates import ServerCertificate, load_certificates
from keyflock_server.runtime.server import PortBinding
from keyflock_server.settings import Settings
from keyflock_server.telemetry.logs import logger

#: Maximum number of operators' requests being read or answered at once.
OPERATORS_BODIES: Final = 32
#: Enough for one model of the largest size at a time, and small bodies beside it.
OPERATORS_BODY_BYTES: Final = MAX_CHECKPOINT_BYTES + 16 * MAX_TASK_BYTES
PHONES: Final = "phones"
OPERATORS: Final = "operators"

_log: Final = logger("keyflock.server")


def load_port_certificates(settings: Settings) -> dict[str, ServerCertificate]:
    """Return the certificates of the ports that have one, by the port's label.

    Raises:
        CertificateError: fault of the operator; a certificate or its key cannot be used.
    """
    certificates = load_certificates(
        {
            PHONES: (settings.tls_certificate, settings.tls_key),
            OPERATORS: (settings.admin_tls_certificate, settings.admin_tls_key),
        }
    )
    if OPERATORS not in certificates and not is_loopback(settings.admin_host):
        _log.warning("operators' tokens can be read on the network: their port has no TLS")
    return certificates


def phones_port(
    settings: Settings,
    endpoints: EndpointGroup[Any],
    probes: Mapping[str, Probe],
    certificate: ServerCertificate | None,
    held_after_answer: Callable[[], int],
) -> tuple[PortBinding, BodyLimits]:
    """Return the port for phones, and what their bodies take.

    Args:
        settings: The settings.
        endpoints: The port's calls.
        probes: The probes by their paths.
        certificate: The port's certificate; None: it speaks plain HTTP.
        held_after_answer: Returns the bytes of bodies that are still needed after their responses.
    """
    limits = BodyLimits(
        settings.max_bodies_in_flight,
        settings.max_body_bytes_in_flight,
        settings.body_timeout_s,
        endpoints.metrics,
    )
    limits.held_after_answer = held_after_answer
    operators = max_operator_connections(settings.max_operator_connections, descriptor_limit())
    connections = _connections(
        settings,
        endpoints,
        limits,
        max_phone_connections(settings.max_connections, operators, descriptor_limit()),
    )
    served = application(endpoints, limits, probes, connections)
    return PortBinding(served, settings.host, settings.port, certificate), limits


def operators_port(
    settings: Settings,
    endpoints: EndpointGroup[Any],
    probes: Mapping[str, Probe],
    certificate: ServerCertificate | None,
) -> PortBinding:
    """Return the port for operators; the arguments are those of ``phones_port``."""
    limits = BodyLimits(
        OPERATORS_BODIES, OPERATORS_BODY_BYTES, settings.body_timeout_s, endpoints.metrics, OPERATORS
    )
    max_connections = max_operator_connections(settings.max_operator_connections, descriptor_limit())
    is_own_host = None
    if is_loopback(settings.admin_host):
        is_own_host = partial(is_own_name, names=settings.admin_names)
    served = application(
        endpoints, limits, probes, _connections(settings, endpoints, limits, max_connections), is_own_host
    )
    return PortBinding(served, settings.admin_host, settings.admin_port, certificate)


def _connections(
    settings: Settings, endpoints: EndpointGroup[Any], limits: BodyLimits, max_connections: int
) -> Connections:
    return Connections(
        endpoints.form,
        endpoints.metrics,
        port=limits.port,
        max_connections=max_connections,
        header_timeout_s=settings.header_timeout_s,
        answer_timeout_s=settings.answer_timeout_s,
    )

"""Which names a request on a port of this machine alone may be addressed to.

A web page can make its own name lead to 127.0.0.1 after it was loaded (DNS rebinding); its scripts then talk
to a port on loopback as to their own server, and read the answers. The browser still says the page's name in
the header ``Host``. An address cannot be made to lead elsewhere, so it is always a good name.

Source: Jackson et al. 2007, "Protecting Browsers from DNS Rebinding Attacks"; RFC 6761, 6.3 (``localhost``).
"""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]*)?")


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach a port that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ip_address(host).is_loopback


def is_own_name(header: str | None, names: Collection[str]) -> bool:
    """Return whether a request's header ``Host`` names this machine.

    Args:
        header: The header; None: the request has none, as no browser's does.
        names: Further names of the port, in lower case.
    Edge cases:
        a name with a dot at its end is the same name; a header that cannot be read -> False
    """
    if header is None:
        return True
    found = _HOST.fullmatch(header)
    if found is None:
        return False
    host = (found[1] or found[2]).lower().removesuffix(".")
    return host == "localhost" or host.endswith(".localhost") or host in names or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

"""Finds the address that a request comes from: the peer's, or behind a trusted proxy the one that it names.

A client can write anything into a header, so a header is used only when a trusted proxy has sent the request,
and only its right-most address that is not a trusted proxy's, which one of the proxies has written. The
client may have made up everything to the left of it. Addresses are compared in memory, never logged or
stored.

Source: RFC 7239 (``Forwarded``); ``X-Forwarded-For`` is an older convention.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(
    peer: str, headers: Iterable[tuple[str, str]], trusted: Collection[Network]
) -> Address | None:
    """Return the address that a request comes from, as far as it can be trusted.

    Args:
        peer: The address of the connection's other end; empty where there is no connection.
        headers: Names and values in their order; a name may occur more than once.
        trusted: The networks of the proxies that write the headers.
    Edge cases:
        no connection -> None; a header that is malformed, or two kinds of headers that disagree -> the peer
    """
    direct = _address(peer)
    if direct is None or not _is_trusted(direct, trusted):
        return direct
    headers = tuple(headers)
    forwarded_for, forwarded = _values(headers, "x-forwarded-for"), _values(headers, "forwarded")
    named = []
    if forwarded_for:
        named.append(_rightmost(reversed(forwarded_for), trusted))
    if forwarded:
        named.append(_rightmost(map(_for_of, reversed(forwarded)), trusted))
    first = named[0] if named else None
    return direct if first is None or any(one != first for one in named) else first


def address_block(address: Address) -> Network:
    """Return the network that is as good as one household or company: an IPv4 /24, or an IPv6 /48."""
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 24), strict=False)
    return IPv6Network((int(address), 48), strict=False)


def _rightmost(addresses: Iterable[str], trusted: Collection[Network]) -> Address | None:
    """Return the right-most address that is not a trusted proxy's; None if one cannot be parsed."""
    address = None
    for text in addresses:
        address = _address(text)
        if address is None or not _is_trusted(address, trusted):
            return address
    return address


def _values(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    lines = (value for key, value in headers if key.lower() == name)
    return [one.strip() for line in lines for one in line.split(",")]


def _for_of(element: str) -> str:
    """Return the parameter ``for`` of one element of ``Forwarded``; empty if there is none."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip('"')
    return ""


def _address(text: str) -> Address | None:
    """Parse an address and drop its port; an IPv4 address written as IPv6 becomes an IPv4 address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_trusted(address: Address, trusted: Collection[Network]) -> bool:
    return any(address.version == network.version and address in network for network in trusted)

"""Where a request comes from: a header is believed from a trusted proxy only, and only from its right."""

from ipaddress import ip_address, ip_network

import pytest

from keyflock_server.http.client_address import address_block, client_address

pytestmark = pytest.mark.fault("D12")

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PHONE = "203.0.113.7"


@pytest.mark.parametrize(
    ("peer", "headers", "found"),
    [
        (PHONE, [], PHONE),
        (PHONE, [("X-Forwarded-For", "198.51.100.1")], PHONE),
        (PHONE, [("Forwarded", "for=198.51.100.1")], PHONE),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", PHONE)], PHONE),
        ("::ffff:10.0.0.1", [("x-forwarded-for", PHONE)], PHONE),
        ("fd00::1", [("X-Forwarded-For", "2001:db8::5")], "2001:db8::5"),
        # What the client wrote itself stands to the left.
        ("10.0.0.1", [("X-Forwarded-For", f"198.51.100.1, {PHONE}")], PHONE),
        ("10.0.0.1", [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", PHONE)], PHONE),
        ("10.0.0.1", [("X-Forwarded-For", f"junk, {PHONE}, 10.0.0.2, fd00::9")], PHONE),
        ("10.0.0.1", [("X-Forwarded-For", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        ("10.0.0.1", [("X-Forwarded-For", f"{PHONE}:4711")], PHONE),
        ("10.0.0.1", [("X-Forwarded-For", "[2001:db8::5]:4711")], "2001:db8::5"),
        ("10.0.0.1", [("Forwarded", f'for=198.51.100.1, for="{PHONE}:4711";proto=https')], PHONE),
        ("10.0.0.1", [("Forwarded", 'proto=https; For="[2001:db8::5]:4711"')], "2001:db8::5"),
        ("10.0.0.1", [("Forwarded", f"for={PHONE}"), ("X-Forwarded-For", PHONE)], PHONE),
        # Malformed, hidden or in disagreement: the proxy itself.
        ("10.0.0.1", [("X-Forwarded-For", "")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", f"{PHONE}, ")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", f"{PHONE}, unknown")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "999.1.1.1")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=_hidden")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "by=10.0.0.1")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.1"), ("X-Forwarded-For", PHONE)], "10.0.0.1"),
    ],
)
def test_the_rightmost_address_that_is_no_proxys_is_taken_from_a_proxy(
    peer: str, headers: list[tuple[str, str]], found: str
) -> None:
    assert client_address(peer, headers, PROXIES) == ip_address(found)


@pytest.mark.parametrize("peer", ["", "not an address"])
def test_without_a_connection_there_is_no_address(peer: str) -> None:
    assert client_address(peer, [("X-Forwarded-For", PHONE)], PROXIES) is None


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
    ],
)
def test_a_block_is_what_one_household_or_company_has(address: str, block: str) -> None:
    assert address_block(ip_address(address)) == ip_network(block)

"""A port of this machine alone is reached by an address or by a name of its own, and by no other."""

import pytest

from keyflock_server.http.host_names import is_loopback, is_own_name


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost", "LocalHost"])
def test_a_port_on_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["::", "10.0.0.5", "ops.example.com", "localhost.example.com", ""])
def test_any_other_port_is_not_on_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1:8701",
        "127.0.0.1",
        "[::1]:8701",
        "10.0.0.5:8701",
        "localhost:9000",
        "LOCALHOST.",
        "keyflock.localhost:8701",
        "ops.example.com",
        "Ops.Example.com:443",
        None,
    ],
)
def test_addresses_localhost_and_the_ports_own_names_are_taken(header: str | None) -> None:
    assert is_own_name(header, {"ops.example.com"})


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "evil.example:8701",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "x@127.0.0.1",
        "evil.example/127.0.0.1",
        "127.0.0.1, evil.example",
        "[::1]evil.example",
        "ops.example.com.evil.example",
        "",
    ],
)
def test_a_name_that_another_may_lead_here_is_not_taken(header: str) -> None:
    assert not is_own_name(header, {"ops.example.com"})

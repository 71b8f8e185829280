"""A server's address is read strictly, and what is wrong with one is said."""

import pytest

from keyflock_server.protocol.addresses import AddressError, server_address

pytestmark = pytest.mark.fault("F14")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("https://keyflock.example", "https://keyflock.example"),
        ("http://127.0.0.1:8700/", "http://127.0.0.1:8700"),
        ("HTTP://localhost:1", "http://localhost:1"),
        (" http://localhost:65535\n", "http://localhost:65535"),
        ("http://[::1]:8700", "http://[::1]:8700"),
    ],
)
def test_an_address_is_read_with_or_without_its_last_slash(given: str, read: str) -> None:
    assert server_address(given) == read


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("127.0.0.1:8700", "http:// is missing. Try http://127.0.0.1:8700."),
        ("localhost", "http:// is missing. Try http://localhost."),
        ("localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("//localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("http:/localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("http:localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("http//localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("HTTPS:localhost:8700", "http:// is missing. Try http://localhost:8700."),
        ("httpd:8700", "http:// is missing. Try http://httpd:8700."),
        ("::1:8700", "http:// is missing. Try http://[::1]:8700."),
        ("htp://localhost:8700", "not an http:// or https:// address. Try http://localhost:8700."),
        ("ftp://localhost", "not an http:// or https:// address"),
        ("file:///etc/passwd", "file:///etc/passwd is not an http:// or https:// address."),
        ("http://::1:8700", "an IPv6 address is written in brackets, http://[::1]:8700"),
        ("http://fe80::1", "an IPv6 address is written in brackets, http://[fe80::1]"),
        ("http://[::1", "an IPv6 address is written in brackets"),
        ("http://localhost:65536", "a port is a number from 1 to 65535"),
        ("http://localhost:0", "a port is a number from 1 to 65535"),
        ("http://localhost:-1", "a port is a number from 1 to 65535"),
        ("http://localhost:http", "a port is a number from 1 to 65535"),
        ("http://localhost:", "a port is a number from 1 to 65535"),
        ("http://localhost:8701/admin/v1", "nothing may follow host and port. Try http://localhost:8701."),
        ("http://localhost?x=1", "nothing may follow host and port. Try http://localhost."),
        ("http://localhost#x", "nothing may follow host and port. Try http://localhost."),
        ("http://", "there is no host in it"),
        ("http://:8700", "there is no host in it"),
        ("http://a..b:8700", "that is no host name"),
        ("http://local host", "a space or a control character"),
        ("http://local\x1bhost", "a space or a control character"),
        ("", "is empty"),
        ("   ", "is empty"),
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_wrong(given: str, says: str) -> None:
    with pytest.raises(AddressError) as refused:
        server_address(given)

    assert says in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("given", ["http://u:hunter2@h:1", "u:hunter2@h:1", "ftp://u:hunter2@h"])
def test_a_password_in_an_address_is_not_repeated(given: str) -> None:
    with pytest.raises(AddressError) as refused:
        server_address(given)

    assert "hunter2" not in str(refused.value)

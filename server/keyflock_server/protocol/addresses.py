"""A server's address as people write it: ``http://HOST:PORT``, and nothing behind it."""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

#: A scheme whose colon or slashes are missing.
_SCHEME_SLIP: Final = re.compile(r"\A(?:https?(?::/*|/+)|/+)", re.IGNORECASE)


class AddressError(ValueError):
    """Fault of whoever gave the address; the message says what is wrong with it and how it would be right."""


def server_address(text: str) -> str:
    """Return an address without the slash at its end.

    Raises:
        AddressError: it is not ``http://HOST``, ``https://HOST``, or one of them with ``:PORT``. A password
            in it is not repeated.
    """
    given = text.strip()
    if not given:
        raise AddressError("The server's address is empty; give http://HOST:PORT.")
    if not given.isprintable() or " " in given:
        raise AddressError("The server's address has a space or a control character in it.")
    scheme, separator, rest = given.partition("://")
    if not separator:
        host = _bracketed(_SCHEME_SLIP.sub("", given))
        raise AddressError(f"{_shown(given)} is no address: http:// is missing. Try http://{_shown(host)}.")
    if scheme.lower() not in {"http", "https"}:
        hint = f" Try http://{_shown(_bracketed(rest))}." if rest.strip("/") == rest else ""
        raise AddressError(f"{_shown(given)} is not an http:// or https:// address.{hint}")
    try:
        parts = urlsplit(given)
        problem = _problem(parts)
    except ValueError:
        problem = "it cannot be read: an IPv6 address is written in brackets, http://[::1]:8700"
    if problem:
        raise AddressError(f"{_shown(given)} is no server's address: {problem}.")
    return f"{parts.scheme}://{parts.netloc}"


def _problem(parts: SplitResult) -> str:
    """Return what is wrong with an address that has a scheme; empty when nothing is."""
    if "@" in parts.netloc:
        return "it names a user; a token goes into a file or the environment"
    if parts.netloc.count(":") > 1 and "[" not in parts.netloc:
        return f"an IPv6 address is written in brackets, {parts.scheme}://{_bracketed(parts.netloc)}"
    if not parts.hostname:
        return "there is no host in it"
    if "[" not in parts.netloc and not _is_host(parts.hostname):
        return "that is no host name"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        return "a port is a number from 1 to 65535"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return f"nothing may follow host and port. Try {parts.scheme}://{parts.netloc}"
    return ""


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _bracketed(netloc: str) -> str:
    """Return host and port with an IPv6 host in brackets; its last group is taken for the port."""
    if netloc.count(":") <= 1 or "[" in netloc:
        return netloc
    host, _, port = netloc.rpartition(":")
    # ::1:8700 may be an address by itself; that its end is a port is the likelier reading.
    return f"[{host}]:{port}" if len(port) == 4 and port.isdigit() else f"[{netloc}]"


def _shown(text: str) -> str:
    """Return the text without what may be a password."""
    before, at, after = text.rpartition("@")
    scheme = before.partition("://")
    return f"{scheme[0]}://...@{after}" if at and scheme[1] else (f"...@{after}" if at else text)

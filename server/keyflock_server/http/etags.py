"""Responses with an ETag: a client that has the bytes already gets 304 instead.

Source: RFC 9110, 8.8.3 and 13.1.
"""

import re
from collections.abc import Mapping
from typing import Final

from keyflock_server.protocol.calls import Response

_STRONG_SHA256: Final = re.compile(r'"([0-9a-f]{64})"')


def etag_response(
    headers: Mapping[str, str],
    body: bytes,
    tag: bytes,
    media_type: str,
    caching: str,
    vary: str = "authorization",
) -> Response:
    """Return the bytes under their ETag, or 304 when the phone has them.

    Args:
        headers: The request's headers, names in lower case.
        body: The bytes.
        tag: A digest that changes with the bytes.
        media_type: The media type of the bytes.
        caching: The value of the header Cache-Control.
        vary: The value of the header Vary.
    """
    etag = format_etag(tag)
    answer = {"etag": etag, "cache-control": caching, "vary": vary}
    if _matches(headers.get("if-none-match", ""), etag):
        return Response(304, answer, b"")
    return Response(200, {**answer, "content-type": media_type}, body)


def format_etag(tag: bytes) -> str:
    """Return a strong ETag."""
    return f'"{tag.hex()}"'


def parse_etags(if_none_match: str) -> set[bytes]:
    """Return the strong tags of 32 bytes in a list; all other tags are ignored."""
    return {
        bytes.fromhex(found[1])
        for etag in if_none_match.split(",")
        if (found := _STRONG_SHA256.fullmatch(etag.strip())) is not None
    }


def _matches(if_none_match: str, etag: str) -> bool:
    """Return whether any listed tag matches by weak comparison; a star matches all (RFC 9110, 13.1.2)."""
    candidates = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in candidates)

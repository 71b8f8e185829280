"""Bytes under an ETag: sent once, and not again to who has them.

Source: RFC 9110, 8.8.3 and 13.1.
"""

import re
from collections.abc import Mapping
from typing import Final

from keyflock_server.protocol.calls import Response

_STRONG_SHA256: Final = re.compile(r'"([0-9a-f]{64})"')


def tagged(
    headers: Mapping[str, str],
    body: bytes,
    tag: bytes,
    media_type: str,
    caching: str,
    vary: str = "authorization",
) -> Response:
    """The bytes under their tag, or 304 when the phone has them.

    Args:
        headers: Of the request, names in lower case.
        body: The bytes.
        tag: Changes with them.
        media_type: What they are.
        caching: The header Cache-Control.
        vary: The header Vary.
    """
    etag = etag_of(tag)
    answer = {"etag": etag, "cache-control": caching, "vary": vary}
    if _matches(headers.get("if-none-match", ""), etag):
        return Response(304, answer, b"")
    return Response(200, {**answer, "content-type": media_type}, body)


def etag_of(tag: bytes) -> str:
    """A strong one."""
    return f'"{tag.hex()}"'


def tags_in(if_none_match: str) -> set[bytes]:
    """The strong tags of 32 bytes in a list; whatever else is there means nothing here."""
    return {
        bytes.fromhex(found[1])
        for one in if_none_match.split(",")
        if (found := _STRONG_SHA256.fullmatch(one.strip())) is not None
    }


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: any of the listed tags, weak comparison; a star matches what exists."""
    candidates = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in candidates)

"""Serves the description of the operator API, and a page that shows it.

Both are files of the package: ``make docs`` writes the description from the table of calls, and the page
reads it. The page loads nothing from elsewhere, and its policy forbids whatever is not in the page itself.
"""

import base64
import hashlib
import re
from importlib import resources
from typing import Final

from keyflock_server.http import caching
from keyflock_server.http.etags import etag_response
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.operator.call import JSON, NoBody, Query
from keyflock_server.protocol.operator.documentation import DOCS, HTML, OPENAPI

_INLINE: Final = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


class DocumentationResource:
    """The handlers of the calls by which the API describes itself."""

    def __init__(self) -> None:
        files = resources.files("keyflock_server.http.operators")
        self._document = (files / "openapi.json").read_bytes()
        self._page = (files / "api_page.html").read_bytes()
        self._policy = content_policy(self._page)

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(OPENAPI, self._openapi)
        handlers.add(DOCS, self._docs)

    async def _openapi(self, request: OperatorRequest[Query, NoBody]) -> Response:
        tag = hashlib.sha256(self._document).digest()
        return etag_response(request.headers, self._document, tag, JSON, caching.REVALIDATED)

    async def _docs(self, _request: OperatorRequest[Query, NoBody]) -> Response:
        headers = {
            "content-type": f"{HTML}; charset=utf-8",
            "cache-control": "no-store",
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(200, headers, self._page)


def content_policy(page: bytes) -> str:
    """Return the policy by which a browser runs the page's own style and script, and nothing else."""
    found: dict[bytes, list[str]] = {b"style": [], b"script": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        found[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; style-src {' '.join(found[b'style'])}; "
        f"script-src {' '.join(found[b'script'])}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

"""The calls by which the operator API describes itself; they need no token, and tell nothing of a server."""

from typing import Final

from keyflock_server.protocol.operator.call import JSON, NoBody, OperatorCall, Query

HTML: Final = "text/html"

OPENAPI: Final = OperatorCall(
    "openapi",
    "GET",
    "/admin/v1/openapi.json",
    None,
    Query,
    NoBody,
    bytes,
    "Describe this API as an OpenAPI 3.1 document.",
    answer_media_type=JSON,
)
DOCS: Final = OperatorCall(
    "docs",
    "GET",
    "/admin/v1/docs",
    None,
    Query,
    NoBody,
    bytes,
    "Show this API as a page.",
    answer_media_type=HTML,
)

CALLS: Final = (OPENAPI, DOCS)

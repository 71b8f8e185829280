"""The API describes itself: a document that needs no token, and a page that loads nothing from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keyflock_server.http.operators.documentation import content_policy
from keyflock_server.protocol.operator.documentation import DOCS, OPENAPI

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort


async def test_the_document_needs_no_token_and_is_sent_once(admin_port: AdminPort) -> None:
    first = await admin_port.send(OPENAPI, Authorization=None)
    again = await admin_port.send(OPENAPI, Authorization=None, If_None_Match=first.headers["ETag"])

    assert (first.status, first.body["openapi"]) == (200, "3.1.0")
    assert (again.status, again.body) == (304, b"")


async def test_the_page_loads_nothing_from_elsewhere(admin_port: AdminPort) -> None:
    answer = await admin_port.send(DOCS, Authorization=None)

    policy = answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(rb'(?:src|href)="(?!openapi\.json")', answer.body)
    assert b"//" not in re.sub(rb"(?s)<script>.*?</script>", b"", answer.body)


def test_the_policy_allows_exactly_the_pages_own_style_and_script() -> None:
    page = b"<style>a{}</style><script>b()</script>"
    policy = content_policy(page)

    assert policy != content_policy(page.replace(b"b()", b"c()"))
    assert "script-src 'sha256-" in policy

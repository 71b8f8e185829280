"""The fuzzer is worth something: it finds nothing in the server, and bugs that are planted there."""

from __future__ import annotations

import base64
import random
import sys

import pytest
from tests.fuzz.http.http_fuzzer import fuzz
from tests.fuzz.http.planted import Planted

from keyflock_server.telemetry import logs

pytestmark = pytest.mark.fault("D1")

REQUESTS = 400
#: A planted bug shows in every malformed request, so the first ones find it.
REQUESTS_TO_FIND = 100


def program(patch: str) -> list[str]:
    """``keyflock`` with a bug."""
    return [sys.executable, "-c", f"{patch}\nfrom keyflock_server.cli import main\nmain()"]


@pytest.mark.parametrize("environment", [{}, {"AIOHTTP_NO_EXTENSIONS": "1"}], ids=["C", "Python"])
def test_hundreds_of_hostile_requests_bring_no_secret_out_and_no_5xx(environment: dict[str, str]) -> None:
    outcome = fuzz(REQUESTS, seed=1, environment=environment)

    assert outcome.secrets == []
    assert outcome.server_errors == []
    assert outcome.is_alive
    assert outcome.requests == REQUESTS
    # It gets past every gate often enough to mean something.
    assert len(outcome.kinds) > 15
    assert {200, 400, 401, 404, 405, 415, 422} <= set(outcome.answers)


def test_a_log_that_passes_on_what_a_library_says_an_answer_that_quotes_and_a_5xx_are_found() -> None:
    patch = """
import logging
from aiohttp import web
from keyflock_server.http import request_handler
from keyflock_server.telemetry import logs
def told(self, record):
    return logging.Formatter().format(record)
logs._RecordFormatter.format = told
def quoting(self, request, status=500, exc=None, message=None):
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=exc)
    response = web.Response(status=500, text=str(exc))
    response.force_close()
    return response
request_handler.RequestHandler.handle_error = quoting
"""

    outcome = fuzz(REQUESTS_TO_FIND, seed=1, serve=program(patch))

    assert [found for found in outcome.secrets if found.startswith("log: ")] != []
    assert [found for found in outcome.secrets if found.startswith("answer to ")] != []
    assert outcome.server_errors != []


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.encode(),
        lambda text: text.upper().encode(),
        lambda text: repr(f"\\xff'{text}").encode(),
        lambda text: text.encode().hex().encode(),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.b64encode(b"x" + text.encode()),
        lambda text: base64.b64encode(b"xy" + text.encode()),
        lambda text: base64.urlsafe_b64encode(b"Bearer " + text.encode()),
        lambda text: "".join(f"%{byte:02X}" for byte in text.encode()).encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: str(list(text.encode())).encode(),
    ],
)
def test_a_secret_is_found_in_whatever_form_it_comes_out(written: object) -> None:
    planted = Planted(random.Random(1))
    assert callable(written)

    assert planted.found_in(b"before " + written(planted.secret(7)) + b" after") != []
    assert planted.found_in(b"before " + written("nothing of the kind") + b" after") == []


def test_the_formatter_that_the_planted_bug_replaces_is_the_one_in_use() -> None:
    assert "format" in vars(logs._RecordFormatter)

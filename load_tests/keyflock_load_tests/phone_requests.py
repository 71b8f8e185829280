"""The requests of phones as bytes, for a generator: made beforehand, as many as there are phones."""

from collections.abc import Sequence
from typing import Final

from keyflock_client_sim.device.installation import CODECS
from keyflock_load_tests.measured_calls import request_of
from keyflock_load_tests.phone_script import APP_BUILD, LOCALE
from keyflock_load_tests.raw_http import to_bytes
from keyflock_load_tests.traffic import JoinedRequests
from keyflock_server.protocol import calls, messages

EXAMPLES: Final = 64
_TOKEN_MARK: Final = "@token@"  # noqa: S105 - stands for a token
_CHECK_IN: Final = messages.CheckIn(
    protocol=messages.PROTOCOL,
    app_build=APP_BUILD,
    locale=LOCALE,
    examples=EXAMPLES,
    capabilities=messages.Capabilities(codecs=CODECS),
)


def check_ins(tokens: Sequence[bytes]) -> JoinedRequests:
    """Return a check-in for each token."""
    return _for_tokens(to_bytes(request_of(calls.CHECK_IN, _TOKEN_MARK, message=_CHECK_IN)), tokens)


def downloads(tokens: Sequence[bytes], version: int) -> JoinedRequests:
    """Return a download of the whole model for each token."""
    return _for_tokens(to_bytes(request_of(calls.MODEL, _TOKEN_MARK, version=version)), tokens)


def report(token: bytes, assignment: messages.Assignment, delta: bytes) -> bytes:
    """Return the report of a phone."""
    message = messages.Report(delta=delta, examples=EXAMPLES, train_s=30.0, session_shape="-v[]+")
    return to_bytes(request_of(calls.REPORT, token.decode("ascii"), message=message, assignment=assignment))


def enrolment(population: str) -> bytes:
    """Return an enrolment."""
    message = messages.EnrolRequest(
        protocol=messages.PROTOCOL, population=population, app_build=APP_BUILD, locale=LOCALE
    )
    return to_bytes(request_of(calls.ENROL, "", message=message))


def _for_tokens(request: bytes, tokens: Sequence[bytes]) -> JoinedRequests:
    before, after = request.split(_TOKEN_MARK.encode("ascii"))
    return JoinedRequests(before, tokens, after)

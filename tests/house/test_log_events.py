"""What the code logs is listed, every listed field is logged, and the page of logs says both."""

import pytest
from tests.house import log_events

from keyflock_server.telemetry import log_fields

pytestmark = pytest.mark.fault("D1")

CALLS = list(log_events.log_calls())
#: What phones send, and what opens doors: no field of a line has such a name.
NEVER_LOGGED = (
    "device",
    "token",
    "user",
    "text",
    "message",
    "word",
    "header",
    "path",
    "body",
    "delta",
    "peer",
)


def test_the_page_is_what_make_docs_writes() -> None:
    assert log_events.PAGE.read_text(encoding="utf-8") == log_events.page(), "run `make docs`"


def test_every_field_that_the_code_logs_is_listed() -> None:
    unlisted = {(one.place, name) for one in CALLS for name in one.fields - log_fields.LOGGED_FIELDS}

    assert unlisted == set()


def test_every_listed_field_is_logged_somewhere() -> None:
    logged = {name for one in CALLS for name in one.fields}

    assert set(log_fields.EVENT_FIELDS) - logged == set()


def test_every_event_is_a_sentence_in_the_code_and_no_text_from_elsewhere() -> None:
    variable = {one.place.partition(":")[0] for one in CALLS if one.event is None}

    # An attestation's own warning, and what failed in a pass: both are literals one call further up.
    assert variable == {"bootstrap.py", "telemetry/metrics_observer.py"}


def test_an_event_has_one_level_and_one_logger() -> None:
    written = {(one.event, one.level, one.logger) for one in CALLS if one.event is not None}

    assert len(written) == len({event for event, _, _ in written})


@pytest.mark.parametrize("name", NEVER_LOGGED)
def test_no_field_is_named_after_what_must_not_be_logged(name: str) -> None:
    assert name not in log_fields.LOGGED_FIELDS

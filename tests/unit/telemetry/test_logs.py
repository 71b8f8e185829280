"""What a log line may hold: listed fields of ours, and of anybody else's only where it comes from."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.telemetry.log_options import LogFormat, LogLevel
from keyflock_server.telemetry.logs import configure_logs, logger
from keyflock_server.telemetry.process_hooks import log_uncaught

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fault("D1")

SECRET = "alice types this"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level; the program's logging comes back afterwards."""
    root, own = logging.getLogger(), logging.getLogger("keyflock")
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    own_level = own.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    stream = io.StringIO()
    configure_logs("json", "DEBUG", stream)
    yield stream
    root.handlers, logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    own.setLevel(own_level)
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks


def events(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def failed() -> ValueError:
    try:
        try:
            dict[str, int]()[SECRET]
        except KeyError as error:
            raise ValueError(f"cannot read {SECRET!r}") from error
    except ValueError as error:
        return error
    raise AssertionError


def test_a_field_that_is_not_listed_is_taken_out_whatever_it_holds(log: io.StringIO) -> None:
    logger("keyflock.x").info("reached", task="next-word", round=7, user=SECRET, anything={"a": SECRET})

    (event,) = events(log)
    assert (event["event"], event["task"], event["round"]) == ("reached", "next-word", 7)
    assert event["user"] == event["anything"] == "[redacted]"


@pytest.mark.parametrize("value", [SECRET * 30, "two\nlines", {"a": SECRET}, object(), ["x"] * 21])
def test_a_listed_field_holds_a_short_line_or_a_number_and_nothing_else(
    log: io.StringIO, value: object
) -> None:
    logger("keyflock.x").info("reached", task=value)

    assert events(log)[0]["task"] == "[redacted]"


def test_bytes_become_their_length(log: io.StringIO) -> None:
    logger("keyflock.x").info("reached", blob=SECRET.encode())

    assert events(log)[0]["blob"] == f"<{len(SECRET)} bytes>"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_its_types_and_its_frames_without_a_message(log_format: LogFormat) -> None:
    stream = io.StringIO()
    configure_logs(log_format, "DEBUG", stream)

    logger("keyflock.x").error("request failed", exc_info=failed())

    assert "ValueError from KeyError" in stream.getvalue()
    assert "telemetry/test_logs.py:" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_the_sentence_is_kept_of_our_own_exceptions_that_quote_nothing(log: io.StringIO) -> None:
    logger("keyflock.x").error("store unreachable", exc_info=StorageUnavailable("The disk is full."))

    assert events(log)[0]["detail"] == "The disk is full."


def test_what_the_system_says_of_a_failure_is_kept_by_number(log: io.StringIO) -> None:
    logger("keyflock.x").error("flush failed", exc_info=OSError(28, SECRET, SECRET))

    assert events(log)[0]["errno"] == "28 No space left on device"
    assert SECRET not in log.getvalue()


@pytest.mark.parametrize(
    "name", ["aiohttp.server", "aiosqlite", "asyncio", "sqlalchemy.engine", "keyflocks", "root"]
)
def test_a_library_tells_its_name_its_place_and_the_type_of_what_failed(log: io.StringIO, name: str) -> None:
    library = logging.getLogger(name)
    library.setLevel(logging.DEBUG)

    library.debug("executing %s", SECRET)
    library.info(SECRET, extra={"task": SECRET})
    library.error("Error handling request", exc_info=failed(), stack_info=True)
    library.info("cannot be put together: %d", SECRET)

    told = events(log)
    assert [event["level"] for event in told] == ["debug", "info", "error", "info"]
    assert {event["logger"] for event in told} == {name}
    assert told[2]["error"] == "ValueError from KeyError"
    assert "test_logs.py:" in told[0]["where"]
    assert SECRET not in log.getvalue()


def test_a_library_with_a_handler_of_its_own_loses_it() -> None:
    own = io.StringIO()
    library = logging.getLogger("some.library")
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    common = io.StringIO()

    configure_logs("json", "DEBUG", common)
    library.error(SECRET)

    assert own.getvalue() == ""
    assert SECRET not in common.getvalue()
    assert "some.library" in common.getvalue()


@pytest.mark.parametrize(
    ("level", "heard"), [("DEBUG", ["info", "warning"]), ("INFO", ["warning"]), ("ERROR", [])]
)
def test_an_operator_hears_that_a_library_said_something_from_warnings_on(
    log: io.StringIO, level: LogLevel, heard: list[str]
) -> None:
    configure_logs("json", level, log)

    logging.getLogger("some.library").info(SECRET)
    logging.getLogger("some.library").warning(SECRET)
    logger("keyflock.x").info("reached")

    assert [event["level"] for event in events(log) if event["logger"] == "some.library"] == heard
    assert ("reached" in log.getvalue()) == (level != "ERROR")


def test_a_program_that_embeds_a_server_gets_nothing_that_was_sent_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    logger("keyflock.x").error("request failed", task="next-word", user=SECRET, exc_info=failed())

    (record,) = caplog.records
    assert record.exc_info is None
    assert SECRET not in repr(vars(record))
    assert vars(record)["error"] == "ValueError from KeyError"


def test_what_nobody_caught_and_warnings_go_through_the_log(
    log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    log_uncaught()
    error = failed()

    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: int(SECRET))
    thread.start()
    thread.join()
    warnings.showwarning(UserWarning(SECRET), UserWarning, "/lib/some/module.py", 3)
    sys.unraisablehook(_unraisable(error))

    assert [event["event"] for event in events(log)] == [
        "the process failed",
        "a thread failed",
        "a library warns",
        "an error could not be raised",
    ]
    assert SECRET not in log.getvalue() + "".join(capsys.readouterr())


def _unraisable(error: BaseException) -> Any:  # noqa: ANN401 - the interpreter alone makes such arguments
    class Arguments:
        exc_type, exc_value, exc_traceback = type(error), error, error.__traceback__
        err_msg, object = SECRET, SECRET

    return Arguments()

"""Lines of one request share an id of the server's; what a caller claims, and shared work, have none."""

import asyncio
import logging

import pytest

from keyflock_server.telemetry.log_context import RequestContext, note_round, shared_task
from keyflock_server.telemetry.logs import logger

_log = logger("keyflock.x")


def fields(caplog: pytest.LogCaptureFixture, name: str) -> list[object]:
    return [vars(record).get(name) for record in caplog.records]


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_lines_of_a_request_share_its_id_and_others_have_none(caplog: pytest.LogCaptureFixture) -> None:
    _log.info("before")
    with RequestContext() as one:
        _log.info("first")
        _log.info("second")
    with RequestContext() as other:
        _log.info("third")
    _log.info("after")

    assert fields(caplog, "request") == [None, one.id, one.id, other.id, None]
    assert one.id != other.id
    assert len(one.id) == 12


def test_the_round_is_on_the_lines_once_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with RequestContext():
        _log.info("before")
        note_round("next-word-7", "next-word")
        _log.info("after")
        _log.info("of another", task="older")
    note_round("next-word-8", "next-word")
    _log.info("outside")

    assert fields(caplog, "round_id") == [None, "next-word-7", "next-word-7", None]
    assert fields(caplog, "task") == [None, "next-word", "older", None]


async def test_requests_that_are_answered_at_once_keep_their_ids_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(round_id: str) -> str:
        with RequestContext() as request:
            note_round(round_id, "t")
            await asyncio.sleep(0)
            _log.info("answered")
            return request.id

    ids = list(await asyncio.gather(answer("t-1"), answer("t-2")))

    assert fields(caplog, "request") == ids
    assert fields(caplog, "round_id") == ["t-1", "t-2"]


async def test_work_that_others_share_belongs_to_no_request(caplog: pytest.LogCaptureFixture) -> None:
    async def flush() -> None:
        _log.info("flushed")

    with RequestContext():
        await shared_task(flush())

    assert fields(caplog, "request") == [None]


def test_a_line_of_a_library_has_the_id_too_and_nothing_else_new(capsys: pytest.CaptureFixture[str]) -> None:
    from keyflock_server.telemetry.logs import _RecordFormatter

    formatter = _RecordFormatter(lambda _logger, _name, event: repr(sorted(event)))
    record = logging.makeLogRecord({"name": "aiohttp.server", "msg": "alice types %s", "args": ("this",)})
    with RequestContext():
        note_round("t-1", "t")
        line = formatter.format(record)

    assert line == "['event', 'level', 'logger', 'request', 'round_id', 'task', 'timestamp', 'where']"
    assert capsys.readouterr().err == ""

"""Requests become bytes, and answers are read as far as a generator must."""

import pytest

from keyflock_load_tests.raw_http import UnreadableAnswer, read_head, to_bytes
from keyflock_server.protocol.calls import Request


def test_a_request_is_written_whole_with_its_length() -> None:
    request = Request("POST", "/v1/check-ins", {"Authorization": "Bearer t"}, b"\x81")

    assert to_bytes(request) == (
        b"POST /v1/check-ins HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer t\r\n"
        b"Content-Length: 1\r\n\r\n\x81"
    )


def test_a_download_has_no_length_and_an_empty_post_has_one() -> None:
    assert b"Content-Length" not in to_bytes(Request("GET", "/v1/models/1"))
    assert b"Content-Length: 0\r\n" in to_bytes(Request("POST", "/x"))


def test_a_head_is_read_only_when_it_is_whole() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 12\r\nServer: k\r\n\r\n"

    assert read_head(answer[:-1]) is None
    head = read_head(answer + b"hello")

    assert head is not None
    assert (head.status, head.body_at, head.body_bytes, head.closes) == (200, len(answer), 12, False)


def test_an_answer_says_that_the_connection_closes() -> None:
    head = read_head(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    assert head is not None
    assert (head.status, head.closes) == (503, True)


def test_an_answer_that_has_no_body_needs_no_length() -> None:
    head = read_head(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")

    assert head is not None
    assert (head.status, head.body_bytes) == (304, 0)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"220 smtp\r\nContent-Length: 0\r\n\r\n"])
def test_other_bytes_are_refused(answer: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        read_head(answer)

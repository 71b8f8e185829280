# ruff: noqa: INP001 - a script to be run, not a package
"""Enrol as one more phone and ask for the next words: ``suggest.py HOST:PORT POPULATION CONTEXT``.

All that an SDK needs for suggestions: two calls, msgpack bodies, a bearer token (docs/protocol.md).
"""

import http.client
import sys
import time
from typing import Any

import msgpack


def call(path: str, message: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """Return the server's answer; one that says when to come again is asked again then."""
    headers = {"Content-Type": "application/msgpack"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    while True:
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("POST", path, msgpack.packb(message), headers)
        response = connection.getresponse()
        answer: dict[str, Any] = msgpack.unpackb(response.read())
        if response.status < http.HTTPStatus.BAD_REQUEST:
            return answer
        if answer.get("retry") is None:
            sys.exit(f"{answer['code']}: {answer['detail']}")
        time.sleep(answer["retry"]["min_s"])


address, population, context = sys.argv[1:]
address = address.removeprefix("http://").rstrip("/")
phone = {"protocol": 1, "population": population, "app_build": 100, "locale": "en-US"}
device = call("/v1/devices", phone)
answer = call("/v1/suggestions", {"context": context, "k": 3}, device["token"])
words = "  ".join(f"{found['word']} {found['probability']:.2f}" for found in answer["suggestions"])
sys.stdout.reconfigure(errors="backslashreplace")  # a word may have letters that the terminal lacks
sys.stdout.write(f"version {answer['model_version']}, after {context!r}: {words}\n")

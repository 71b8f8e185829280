"""Calls over sockets."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_server.protocol.calls import Request


async def _echo(request: web.Request) -> web.Response:
    body = await request.read()
    header = request.headers.get("Keyflock-Assignment", "none")
    return web.Response(status=409, body=body[::-1], headers={"X-Said": header})


async def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def _away(_: web.Request) -> web.Response:
    raise web.HTTPFound("/echo")


@pytest.fixture
async def server() -> TestServer:
    application = web.Application()
    application.router.add_route("*", "/echo", _echo)
    application.router.add_route("*", "/hang-up", _hang_up)
    application.router.add_route("*", "/away", _away)
    return TestServer(application)


async def test_a_call_travels_with_its_headers_and_body_and_any_status_is_an_answer(
    server: TestServer,
) -> None:
    async with server, HttpExchange(str(server.make_url("/"))) as exchange:
        answer = await exchange.send(Request("PUT", "/echo", {"Keyflock-Assignment": "a"}, b"abc"))

    assert (answer.status, answer.body, answer.headers["x-said"]) == (409, b"cba", "a")


async def test_a_connection_that_breaks_is_a_lost_call(server: TestServer) -> None:
    async with server, HttpExchange(str(server.make_url("/"))) as exchange:
        with pytest.raises(ConnectionError):
            await exchange.send(Request("POST", "/hang-up", {}, b"abc"))


async def test_a_server_that_is_not_there_is_a_lost_call(unused_tcp_port: int) -> None:
    async with HttpExchange(f"http://127.0.0.1:{unused_tcp_port}") as exchange:
        with pytest.raises(ConnectionError):
            await exchange.send(Request("POST", "/echo"))


async def test_a_redirect_is_an_answer_and_nobody_follows_it(server: TestServer) -> None:
    async with server, HttpExchange(str(server.make_url("/"))) as exchange:
        answer = await exchange.send(Request("POST", "/away", {}, b"abc"))

    assert answer.status == 302

"""The generator sends what a plan says and records each call, whatever the server does."""

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from keyflock_load_tests.generator import Generator
from keyflock_load_tests.generator_process import GeneratorFailed, GeneratorProcess
from keyflock_load_tests.raw_http import to_bytes
from keyflock_load_tests.traffic import (
    HUNG_UP,
    LOST,
    JoinedRequests,
    PlannedCall,
    Requests,
    TrafficPlan,
    TrafficScript,
    steady_instants,
)
from keyflock_server.protocol.calls import Request

BODY_BYTES = 700_000


class Answers(socketserver.StreamRequestHandler):
    """Answers each request with its body; /lost closes the connection instead, /large sends much."""

    server: "AnswerServer"

    def handle(self) -> None:
        while line := self.rfile.readline():
            path, length = line.split()[1].decode(), 0
            while (header := self.rfile.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            body = self.rfile.read(length)
            self.server.seen[path, body] += 1
            if path == "/lost":
                return
            if path == "/large":
                body = bytes(BODY_BYTES)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


class AnswerServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.seen: Counter[tuple[str, bytes]] = Counter()


@pytest.fixture
def server() -> Iterator[AnswerServer]:
    with AnswerServer() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def plan(server: AnswerServer, script: TrafficScript, **changes: object) -> TrafficPlan:
    host, port = server.server_address[:2]
    values = {"visits": 20, "duration_s": 60.0, "connections": 4, **changes}
    return TrafficPlan(host=str(host), port=int(port), script=script, **values)  # type: ignore[arg-type]


def put(path: str, body: bytes) -> bytes:
    return to_bytes(Request("PUT", path, {}, body))


def test_a_closed_loop_makes_every_visit_once_and_keeps_its_answer(server: AnswerServer) -> None:
    bodies = [bytes([number]) * 50 for number in range(20)]
    script = Requests("put", [put("/", body) for body in bodies], keeps_answers=True)

    record = Generator(plan(server, script), may_spin=False).run()

    assert record.statuses("put") == {200: 20}
    assert record.books == dict(enumerate(bodies))
    assert server.seen == Counter({("/", body): 1 for body in bodies})
    assert (record.ended_s >= record.due_s).all()


def test_an_open_loop_counts_latency_from_the_due_instant(server: AnswerServer) -> None:
    script = Requests("put", [put("/", b"x")])
    due_s = steady_instants(1_000.0, 0.02)

    record = Generator(plan(server, script, due_s=due_s, connections=2), may_spin=False).run()

    assert record.statuses("put") == {200: 20}
    assert sorted(record.due_s) == due_s.tolist()
    assert record.latencies_s("put").min() > 0.0
    assert (record.lateness_s() >= 0.0).all()


def test_a_broken_connection_is_recorded_and_replaced(server: AnswerServer) -> None:
    script = Requests("put", [put("/lost", b"x"), put("/", b"x")])

    record = Generator(plan(server, script, connections=1), may_spin=False).run()

    assert record.statuses("put") == {LOST: 10, 200: 10}
    assert record.answered("put") == 10


def test_large_requests_and_answers_pass_whole(server: AnswerServer) -> None:
    body = np.random.default_rng(1).bytes(3_000_000)
    script = Requests("put", [put("/", body), put("/large", b"x")], keeps_answers=True)

    record = Generator(plan(server, script, visits=2, connections=2), may_spin=False).run()

    assert record.books == {0: body, 1: bytes(BODY_BYTES)}


class ThreeCalls:
    """A visit of three calls, of which the last hangs up."""

    books: list[tuple[str, int]]

    def __init__(self) -> None:
        self.books = []

    def first(self, visit: int) -> PlannedCall:
        return PlannedCall("first", put("/", b"%d" % visit))

    def next(self, visit: int, name: str, status: int, body: bytes) -> PlannedCall | None:
        self.books.append((name, status))
        if name == "first":
            assert body == b"%d" % visit
            return PlannedCall("second", put("/", b"second"), after_s=0.01)
        if name == "second":
            return PlannedCall("third", put("/", b"third"), hangs_up=True)
        return None


def test_a_script_decides_what_follows_an_answer(server: AnswerServer) -> None:
    record = Generator(plan(server, ThreeCalls(), visits=3), may_spin=False).run()

    assert Counter(record.books) == {("first", 200): 3, ("second", 200): 3, ("third", HUNG_UP): 3}
    first, second = record.of("first"), record.of("second")
    ended_s = dict(zip(record.visit[first], record.ended_s[first], strict=True))
    due_s = dict(zip(record.visit[second], record.due_s[second], strict=True))
    assert due_s == {visit: pytest.approx(at_s + 0.01) for visit, at_s in ended_s.items()}


def test_a_process_of_its_own_runs_one_plan_after_the_other(server: AnswerServer) -> None:
    requests = JoinedRequests(b"PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", [b"a", b"b"], b"")

    with GeneratorProcess(may_spin=False) as generator:
        for _ in range(2):
            record = generator.run(plan(server, Requests("put", requests), visits=4))
            assert record.statuses("put") == {200: 4}

    assert server.seen == Counter({("/", b"a"): 4, ("/", b"b"): 4})


def test_a_process_says_what_kept_it_from_running(server: AnswerServer) -> None:
    with GeneratorProcess(may_spin=False) as generator, pytest.raises(GeneratorFailed, match="ZeroDivision"):
        generator.run(plan(server, Requests("put", [])))

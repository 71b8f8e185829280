"""The generator's loop: raw sockets and epoll, some ten microseconds a call.

It sends what a `TrafficPlan` says and records every call. It knows nothing of keyflock: requests are bytes,
and what follows an answer is the script's business. Use it through ``generator_process``, which gives it a
process and a core of its own.
"""

import gc
import heapq
import select
import socket
import time
from array import array
from collections import deque
from typing import Final

import numpy as np

from keyflock_load_tests.raw_http import AnswerHead, UnreadableAnswer, read_head
from keyflock_load_tests.traffic import (
    GAVE_UP,
    HUNG_UP,
    LOST,
    UNANSWERED,
    PlannedCall,
    TrafficPlan,
    TrafficRecord,
)

#: Reserved, and touched as far as answers are read.
_RECEIVE_BYTES: Final = 4_194_304
_SEND_BUFFER_BYTES: Final = 262_144
#: epoll sleeps in whole milliseconds: nearer to the next call the loop asks without sleeping.
_SPIN_S: Final = 0.002
_MAX_SLEEP_S: Final = 0.05


class _Waiting:
    """A call that is due, and waits for its connection or its answer."""

    __slots__ = ("call", "due_s", "sent_s", "visit")

    def __init__(self, visit: int, call: PlannedCall, due_s: float) -> None:
        self.visit, self.call, self.due_s = visit, call, due_s
        self.sent_s = due_s


class _Line:
    """One kept-alive connection with at most one call on it."""

    __slots__ = ("body_left", "head", "received", "rest", "socket", "waiting")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.waiting: _Waiting | None = None
        #: What of the request is not sent yet.
        self.rest: memoryview | None = None
        self.received = b""
        self.head: AnswerHead | None = None
        self.body_left = 0


class _Columns:
    """The record while it grows."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.call, self.visit, self.status = array("b"), array("i"), array("h")
        self.due_s, self.sent_s, self.ended_s = array("d"), array("d"), array("d")

    def add(self, waiting: _Waiting, ended_s: float, status: int) -> None:
        name = waiting.call.name
        self.call.append(self.names.setdefault(name, len(self.names)))
        self.visit.append(waiting.visit)
        self.due_s.append(waiting.due_s)
        self.sent_s.append(waiting.sent_s)
        self.ended_s.append(ended_s)
        self.status.append(status)


class Generator:
    """Runs one plan.

    Args:
        plan: What to send.
        may_spin: Whether the loop may burn its core to be on time; not where the server is on the same core.
    """

    def __init__(self, plan: TrafficPlan, *, may_spin: bool = True) -> None:
        self._plan = plan
        self._spin_s = _SPIN_S if may_spin else 0.0
        self._columns = _Columns()
        self._poll = select.epoll()
        self._lines: dict[int, _Line] = {}
        self._free: list[_Line] = []
        #: Calls that are due and have no connection yet, and calls that are due later.
        self._ready: deque[_Waiting] = deque()
        self._later: list[tuple[float, int, _Waiting]] = []
        self._next_visit = 0
        #: Visits that have begun and not ended.
        self._under_way = 0
        self._began_s = 0.0
        self._buffer = bytearray(_RECEIVE_BYTES)

    def run(self) -> TrafficRecord:
        """Run the plan to its end and return the record."""
        due_s = None if self._plan.due_s is None else np.asarray(self._plan.due_s, np.float64).tolist()
        visits = self._plan.visits if due_s is None else len(due_s)
        for _ in range(self._plan.connections if due_s is None else min(16, self._plan.connections)):
            self._free.append(self._connect())
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu_s, self._began_s = time.process_time(), time.perf_counter()
        try:
            self._loop(due_s, visits)
        finally:
            wall_s, cpu_s = time.perf_counter() - self._began_s, time.process_time() - cpu_s
            gc.enable()
            gc.unfreeze()
            for line in self._lines.values():
                line.socket.close()
            self._poll.close()
        return self._record(visits, cpu_s, wall_s)

    def _loop(self, due_s: list[float] | None, visits: int) -> None:
        plan = self._plan
        while True:
            now_s = self._now_s()
            if now_s < plan.duration_s:
                self._begin_visits(due_s, visits, now_s)
            else:
                visits = self._next_visit
            while self._later and self._later[0][0] <= now_s:
                self._ready.append(heapq.heappop(self._later)[2])
            self._send_ready(now_s)
            is_idle = not self._under_way
            if (is_idle and self._next_visit >= visits) or now_s >= plan.duration_s + plan.drain_s:
                return
            for number, event in self._poll.poll(self._sleep_s(due_s, visits)):
                line = self._lines.get(number)
                if line is None:
                    continue
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._receive(line)
                elif event & select.EPOLLOUT:
                    self._send_rest(line)

    def _begin_visits(self, due_s: list[float] | None, visits: int, now_s: float) -> None:
        first = self._plan.script.first
        while self._next_visit < visits:
            visit = self._next_visit
            if due_s is None:
                if self._under_way >= self._plan.connections:
                    return
                at_s = now_s
            else:
                at_s = due_s[visit]
                if at_s > now_s:
                    return
            self._next_visit += 1
            self._under_way += 1
            self._ready.append(_Waiting(visit, first(visit), at_s))

    def _send_ready(self, now_s: float) -> None:
        while self._ready:
            if now_s - self._ready[0].due_s > self._plan.patience_s:
                self._end(self._ready.popleft(), GAVE_UP)
                continue
            line = self._take_line()
            if line is None:
                return
            self._send(line, self._ready.popleft())

    def _sleep_s(self, due_s: list[float] | None, visits: int) -> float:
        """Return how long to wait for sockets until something is due."""
        until_s = self._later[0][0] if self._later else float("inf")
        if due_s is not None and self._next_visit < visits:
            until_s = min(until_s, due_s[self._next_visit])
        wait_s = min(until_s - self._now_s(), _MAX_SLEEP_S)
        return max(0.0, wait_s - self._spin_s)

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    def _connect(self) -> _Line:
        line = _Line(self._plan.host, self._plan.port)
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLIN)
        return line

    def _take_line(self) -> _Line | None:
        if self._free:
            return self._free.pop()
        if len(self._lines) >= self._plan.connections:
            return None
        try:
            return self._connect()
        except OSError:  # the server takes no more connections now: the call waits
            return None

    def _send(self, line: _Line, waiting: _Waiting) -> None:
        line.waiting, waiting.sent_s = waiting, self._now_s()
        request = waiting.call.request
        try:
            sent = line.socket.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose(line)
            return
        if sent < len(request):
            line.rest = memoryview(request)[sent:]
            self._poll.modify(line.socket, select.EPOLLIN | select.EPOLLOUT)
        elif waiting.call.hangs_up:
            self._hang_up(line)

    def _send_rest(self, line: _Line) -> None:
        assert line.rest is not None  # noqa: S101 - epoll tells of it only while there is a rest
        try:
            line.rest = line.rest[line.socket.send(line.rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose(line)
            return
        if not line.rest:
            line.rest = None
            self._poll.modify(line.socket, select.EPOLLIN)
            if line.waiting is not None and line.waiting.call.hangs_up:
                self._hang_up(line)

    def _receive(self, line: _Line) -> None:
        # The kernel drops what MSG_TRUNC asks for: a body that nobody reads is not copied either.
        is_dropped = line.head is not None and not self._plan.reads_bodies
        try:
            if is_dropped:
                size = line.socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
            else:
                size = line.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size == 0:
            self._lose(line)
            return
        if line.head is None:
            line.received += self._buffer[:size]
            try:
                line.head = read_head(line.received)
            except UnreadableAnswer:
                self._lose(line)
                return
            if line.head is None:
                return
            line.body_left = line.head.body_bytes - (len(line.received) - line.head.body_at)
        else:
            line.body_left -= size
            if self._plan.reads_bodies:
                line.received += self._buffer[:size]
        if line.body_left <= 0:
            self._finish(line, line.head)

    def _finish(self, line: _Line, head: AnswerHead) -> None:
        waiting, line.waiting = line.waiting, None
        body = line.received[head.body_at :] if self._plan.reads_bodies else b""
        line.received, line.head = b"", None
        if waiting is None or line.rest is not None:
            # An answer to nothing, or one before the request was sent: the connection is of no more use.
            line.waiting = waiting
            self._end(waiting, head.status, body)
            line.waiting = None
            self._close(line)
            return
        if head.closes:
            self._close(line)
        else:
            self._free.append(line)
        self._end(waiting, head.status, body)

    def _end(self, waiting: _Waiting | None, status: int, body: bytes = b"") -> None:
        """Record a call that has ended, and plan the next one of its visit."""
        if waiting is None:
            return
        now_s = self._now_s()
        self._columns.add(waiting, now_s, status)
        following = self._plan.script.next(waiting.visit, waiting.call.name, status, body)
        if following is None:
            self._under_way -= 1
            return
        after = _Waiting(waiting.visit, following, now_s + following.after_s)
        if following.after_s > 0.0:
            heapq.heappush(self._later, (after.due_s, len(self._columns.call), after))
        else:
            self._ready.append(after)

    def _lose(self, line: _Line) -> None:
        waiting, line.waiting = line.waiting, None
        self._close(line)
        self._end(waiting, LOST)

    def _hang_up(self, line: _Line) -> None:
        waiting, line.waiting = line.waiting, None
        self._close(line)
        self._end(waiting, HUNG_UP)

    def _close(self, line: _Line) -> None:
        del self._lines[line.socket.fileno()]
        if line in self._free:
            self._free.remove(line)
        line.socket.close()

    def _record(self, visits: int, cpu_s: float, wall_s: float) -> TrafficRecord:
        columns, ended_s = self._columns, wall_s
        for line in self._lines.values():
            if line.waiting is not None:
                columns.add(line.waiting, ended_s, UNANSWERED)
        is_open = self._plan.due_s is not None
        unbegun = (visits - self._next_visit if is_open else 0) + len(self._ready)
        return TrafficRecord(
            duration_s=self._plan.duration_s,
            names=tuple(columns.names),
            call=np.frombuffer(columns.call, np.int8),
            visit=np.frombuffer(columns.visit, np.int32),
            due_s=np.frombuffer(columns.due_s, np.float64),
            sent_s=np.frombuffer(columns.sent_s, np.float64),
            ended_s=np.frombuffer(columns.ended_s, np.float64),
            status=np.frombuffer(columns.status, np.int16),
            unbegun=unbegun,
            cpu_s=cpu_s,
            wall_s=wall_s,
            books=self._plan.script.books,
        )

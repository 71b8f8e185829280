"""The event loop of a server process, which never prevents the process from ending.

``asyncio.run`` waits for every cancelled task. One that waits for a database which does not answer, or whose
driver shields the closing of its connection, can keep a process for as long as its longest timeout.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final

import uvloop

from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


def run_in_bounded_time(main: Coroutine[Any, Any, None], *, grace_s: float) -> None:
    """Run ``main`` on a new event loop, and end the process in bounded time when ``main`` has ended.

    Args:
        main: The coroutine of the whole process.
        grace_s: How long the tasks that ``main`` left may take to end when they are cancelled, and how long
            after that the process may take to end. Seconds.
    Raises:
        Exception: any exception that ``main`` raises.
    Guarantees:
        A process that does not end by itself in that time, for want of a task or a thread, exits with 0, or
        with 1 when ``main`` raised.
    """
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    hung: list[asyncio.Task[Any]] = []
    code = 1
    try:
        runner.run(_run_and_cancel_the_rest(main, grace_s, hung))
        code = 0
    finally:
        # The timer references the tasks, because asyncio complains when pending ones are garbage-collected.
        timer = threading.Timer(grace_s, _exit_at_once, [code, runner, hung])
        timer.daemon = True
        timer.start()
        if hung:
            _log.error("tasks did not end in time, the process ends without them", count=len(hung))
        else:
            runner.close()


async def _run_and_cancel_the_rest(
    main: Coroutine[Any, Any, None], grace_s: float, hung: list[asyncio.Task[Any]]
) -> None:
    try:
        await main
    finally:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            _, pending = await asyncio.wait(rest, timeout=grace_s)
            hung += pending


def _exit_at_once(code: int, *_referenced: object) -> None:
    os._exit(code)

"""Time that passes only when everybody waits, and a line to a server that is a function."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
RunVirtually = Callable[[Coroutine[Any, Any, T]], T]


class _InstantSelector(selectors.SelectSelector):
    """Instead of blocking until the next timer it moves the clock there."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits and no timer is set: a deadlock")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio with a clock of its own: an hour of sleeping takes no time."""

    def __init__(self) -> None:
        self._instant = _InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now_s


@pytest.fixture
def run_virtually() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop in virtual time."""

    def run(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(main)

    return run


@pytest.fixture
def loop_clock() -> Callable[[], float]:
    """Seconds since the virtual loop began."""
    return lambda: asyncio.get_running_loop().time()

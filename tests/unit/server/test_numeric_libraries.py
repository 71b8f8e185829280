"""JAX comes in the background: once, again after a failure, and never in the way of a server that stops."""

import asyncio
import gc
import threading

import pytest

from keyflock_server.coordinator import ComputeThread
from keyflock_server.garbage_collection import lasting_objects
from keyflock_server.runtime import numeric_libraries
from keyflock_server.runtime.numeric_libraries import RETRY_PAUSE_S, NumericLibraries


async def test_jax_is_imported_once_there_is_a_round_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    imports: list[str] = []
    monkeypatch.setattr(numeric_libraries, "import_now", lambda: imports.append("now"))
    has_rounds, closing = False, ComputeThread()
    libraries = NumericLibraries(closing, lambda: has_rounds)

    await libraries.start()
    await libraries.tick()
    await closing.run(int)
    assert imports == []

    has_rounds = True
    for _ in range(3):
        await libraries.tick()
        await closing.run(int)
    assert imports == ["now"]
    closing.close()


async def test_an_import_that_fails_is_told_once_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports: list[str] = []

    def fail_at_first() -> None:
        imports.append("now")
        if len(imports) == 1:
            raise ImportError("no module named jaxlib")

    monkeypatch.setattr(numeric_libraries, "import_now", fail_at_first)
    closing, now_s = ComputeThread(), 1_000.0
    libraries = NumericLibraries(closing, lambda: True, lambda: now_s)

    await libraries.tick()
    await closing.run(int)
    with pytest.raises(ImportError, match="jaxlib"):
        await libraries.tick()
    for passed_s in (0.0, RETRY_PAUSE_S - 1.0, RETRY_PAUSE_S, 10 * RETRY_PAUSE_S):
        now_s = 1_000.0 + passed_s
        await libraries.tick()
        await closing.run(int)
        assert len(imports) == (1 if passed_s < RETRY_PAUSE_S else 2)
    closing.close()


async def test_a_server_that_stops_does_not_wait_for_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(numeric_libraries, "import_now", may_end.wait)
    closing = ComputeThread()
    libraries = NumericLibraries(closing, lambda: True)

    await libraries.tick()
    async with asyncio.timeout(60.0):
        await libraries.stop()

    may_end.set()
    closing.close()


def test_what_a_failed_block_leaves_is_collected() -> None:
    frozen = gc.get_freeze_count()

    with pytest.raises(ImportError), lasting_objects():
        raise ImportError("no module named jaxlib")

    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen

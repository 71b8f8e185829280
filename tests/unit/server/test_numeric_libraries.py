import pytest

from keyflock_server.coordinator import ComputeThread
from keyflock_server.runtime import numeric_libraries
from keyflock_server.runtime.numeric_libraries import NumericLibraries


async def test_jax_is_imported_once_there_is_a_round_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    imports: list[str] = []
    monkeypatch.setattr(numeric_libraries, "import_now", lambda: imports.append("now"))
    has_rounds = False
    libraries = NumericLibraries(ComputeThread(), lambda: has_rounds)

    await libraries.start()
    await libraries.tick()
    await libraries.stop()
    assert imports == []

    has_rounds = True
    await libraries.tick()
    await libraries.tick()
    await libraries.stop()
    assert imports == ["now"]


async def test_an_import_that_fails_is_reported_by_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no module named jaxlib")

    monkeypatch.setattr(numeric_libraries, "import_now", fail)
    libraries = NumericLibraries(ComputeThread(), lambda: True)

    await libraries.tick()
    await libraries.stop()
    with pytest.raises(ImportError, match="jaxlib"):
        await libraries.tick()

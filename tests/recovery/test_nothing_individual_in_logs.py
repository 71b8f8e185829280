"""No single phone's update is ever in a log or a traceback, whatever goes wrong with it, and wherever."""

import base64
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.recovery.test_nothing_individual_on_disk import encodings
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness

from keyflock_compression import DenseSpec, encode
from keyflock_server.protocol.messages import Report
from keyflock_server.telemetry.log_options import LogFormat
from keyflock_server.telemetry.logs import configure_logs, logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver

SPEC = DenseSpec()
#: The steps of a report, from the body to the sum on the disk.
STEPS = (
    "keyflock_server.coordinator.micro_batch.decode",
    "keyflock_server.aggregation.clipping.DeltaValidator.validate",
    "keyflock_server.aggregation.partial_aggregate.PartialAggregate.add",
    "keyflock_server.aggregation.partial_aggregate.PartialAggregate.merged",
    "keyflock_server.aggregation.partial_aggregate.PartialAggregate.to_bytes",
    "tests.memory_store.blobs.MemoryBlobStore.put",
    "tests.memory_store.group_writer.MemoryGroupWriter._count",
)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
Planted = list[tuple[NDArray[np.float32], bytes]]


def planted() -> Planted:
    """Four phones' updates."""
    rng = np.random.default_rng(3)
    deltas = [rng.standard_normal(LAYOUT.size).astype(np.float32) for _ in range(4)]
    return [(delta, encode(delta, LAYOUT, SPEC, seed=1)) for delta in deltas]


def assert_nothing_of(updates: Planted, log_text: str) -> None:
    """Neither bytes, however they are written, nor numbers."""
    log_text = TIMESTAMP.sub("", log_text)  # of whose digits some are now and then an update's
    for delta, container in updates:
        for form in encodings(delta, container):
            assert form.hex() not in log_text
            assert repr(form)[2:-1] not in log_text
            assert base64.b64encode(form).decode()[:16] not in log_text
        for number in (*delta[:8], *delta[-8:]):
            # One digit more than the log's own figures have.
            assert f"{number:.7f}"[:-2] not in log_text


async def report_all(harness: CoordinatorHarness, messages: list[bytes]) -> list[str]:
    """Each phone's report; what the endpoint would log of its failure is logged, and told."""
    log, details = logger("keyflock.http"), list[str]()
    for one in [await harness.assigned(await harness.enrol()) for _ in messages]:
        try:
            await harness.coordinator.reports.report(one, Report(delta=messages[len(details)], examples=7))
            details.append("")
        except Exception as error:
            log.error("request failed", exc_info=error)  # noqa: TRY400 - word for word as the gate does
            details.append(str(error))
    return details


async def founded() -> CoordinatorHarness:
    harness = CoordinatorHarness(observer=MetricsObserver(Metrics()))
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 4\nover_selection = 1.0", codec='codec = "dense"')
    return harness


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.rpartition(".")[2])
async def test_a_step_that_fails_brings_nothing_of_the_reports_into_the_log(
    monkeypatch: pytest.MonkeyPatch, step: str, log_format: LogFormat
) -> None:
    harness, updates, log = await founded(), planted(), io.StringIO()
    configure_logs(log_format, "DEBUG", log)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nobody has thought of this")

    monkeypatch.setattr(step, fail)
    await report_all(harness, [container for _, container in updates])
    await harness.coordinator.tick()
    monkeypatch.undo()
    await harness.coordinator.stop()

    log_text = log.getvalue()
    assert "RuntimeError" in log_text
    assert "nobody has thought of this" not in log_text
    assert_nothing_of(updates, log_text)


async def test_a_report_that_is_refused_is_not_quoted() -> None:
    harness, updates, log = await founded(), planted(), io.StringIO()
    configure_logs("json", "DEBUG", log)
    whole = [container for _, container in updates]
    broken = [
        whole[0][:-1],
        whole[1][:40] + bytes(8) + whole[1][48:],
        whole[2].replace(b"dense", b"other"),
        whole[3] + b"\x00",
    ]

    details = await report_all(harness, broken)
    await harness.coordinator.stop()

    assert all(details)
    assert_nothing_of(updates, log.getvalue() + "".join(details))


def test_the_search_finds_what_is_there() -> None:
    updates = planted()
    delta, container = updates[0]

    for leak in (f"array([{delta[3]}, ...])", repr(container), container.hex()):
        with pytest.raises(AssertionError):
            assert_nothing_of(updates, leak)

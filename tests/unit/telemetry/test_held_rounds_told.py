"""What an operator hears of held rounds and rollbacks: one warning each, a counter, and a gauge."""

import logging

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import ABSURD, BECAUSE, FIRST, play
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.protocol.operator.populations import RollbackOrder
from keyflock_server.runtime.state_series import StateSeries
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The warnings, by what they say; without what the logger itself adds to every record."""
    own = {"task", "round", "detail", "population", "version", "to"}
    return [
        {"event": record.getMessage()} | {key: value for key, value in vars(record).items() if key in own}
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


@pytest.mark.fault("D8")
async def test_a_held_round_is_a_warning_with_its_reason_and_a_gauge_until_it_is_decided(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    harness = CoordinatorHarness(observer=MetricsObserver(metrics))
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(optimizer=ABSURD)

    await play(harness)
    await harness.coordinator.tick()
    waiting = metrics.exposition()
    view = await harness.coordinator.tasks.round(FIRST)
    await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()

    assert warnings_in(caplog) == [
        {"event": "round held", "task": "t", "round": 1, "detail": view.detail},
    ]
    assert b"keyflock_rounds_held_total 1.0" in waiting
    assert b"keyflock_held_rounds 1.0" in waiting
    assert b"keyflock_held_rounds 0.0" in metrics.exposition()
    assert b'keyflock_rounds_total{phase="discarded"} 1.0' in metrics.exposition()
    assert BECAUSE.reason not in caplog.text
    await harness.coordinator.stop()


@pytest.mark.fault("D9")
async def test_a_rollback_is_a_warning_and_the_newest_version_is_the_restored_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    harness = CoordinatorHarness(observer=MetricsObserver(metrics))
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task()
    await play(harness)
    await harness.coordinator.tick()
    StateSeries(harness.coordinator, lambda: harness.now).show_in(metrics)
    metrics.exposition()  # somebody looks, so the next pass reads which versions there are
    await harness.coordinator.tick()

    await harness.coordinator.populations.roll_back(
        POPULATION, RollbackOrder(to=0, reason="words that nobody should log"), audit=AUDIT
    )

    assert warnings_in(caplog) == [
        {"event": "population rolled back", "population": "en", "version": 2, "to": 0},
    ]
    assert b"keyflock_rollbacks_total 1.0" in metrics.exposition()
    assert b'keyflock_rounds_total{phase="discarded"} 1.0' in metrics.exposition()
    assert b'keyflock_model_version{population="en"} 1.0' in metrics.exposition()
    await harness.coordinator.tick()
    assert b'keyflock_model_version{population="en"} 2.0' in metrics.exposition()
    assert "nobody should log" not in caplog.text
    await harness.coordinator.stop()

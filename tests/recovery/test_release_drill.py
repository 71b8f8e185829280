"""A small drill of releases: the gate on resampled phones, and simulated phones over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recovery.fork_server import ForkServer
from tests.recovery.release_drill.environments import drill_postgres, drill_sqlite
from tests.recovery.release_drill.fleet_run import FleetOutcome
from tests.recovery.release_drill.gate_runs import run_many
from tests.recovery.release_drill.resampled_phones import SimulatedUsers


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server") / "log") as server:
        yield server


def test_worse_versions_seldom_pass_and_equal_ones_nearly_always() -> None:
    shares = run_many(300, SimulatedUsers(), seed=1)

    assert shares.worse_passed_share <= 0.05
    assert shares.equal_passed_share >= 0.95
    assert shares.inconclusive_held
    # Phones with 100 words each, and versions that differ on a tenth of them.
    assert shares.phones_needed == 593


@pytest.mark.slow
async def test_keyboards_serve_what_was_promoted_and_nothing_else_over_sqlite(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    check(await drill_sqlite(tmp_path, fork_server))


@pytest.mark.slow
async def test_keyboards_serve_what_was_promoted_and_nothing_else_by_two_replicas_over_postgresql(
    fork_server: ForkServer, tmp_path: Path, postgres_url: str
) -> None:
    check(await drill_postgres(tmp_path, fork_server, postgres_url))


def check(outcome: FleetOutcome) -> None:
    assert outcome.is_worse_blocked
    assert outcome.diverged_served == 0
    assert outcome.stages_only_widen
    assert outcome.audit_verified
    assert outcome.actions == (
        "created",
        "staged",  # version 1, for nobody, then for 10 and 50 % of the devices
        "staged",
        "staged",
        "promoted",
        "staged",  # version 2, for nobody
        "rolled_back",
        "promoted",  # version 2, by force
        "rolled_back",
    )

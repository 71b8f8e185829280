"""A report that was acknowledged is counted, whatever happens to servers; ``make kills`` runs it for long."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recovery.chaos_environment import ChaosEnvironment, postgres_environment, sqlite_environment
from tests.recovery.chaos_report import ChaosReport
from tests.recovery.chaos_run import ChaosOutcome, ChaosRun
from tests.recovery.departing_phones import Departure
from tests.recovery.fault_plan import FaultTarget
from tests.recovery.fork_server import ForkServer

from keyflock_server.rounds.round import Phase

KILLS = 6


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server") / "log") as fork_server:
        yield fork_server


@pytest.mark.slow
async def test_what_was_acknowledged_is_counted_exactly_once_while_the_server_is_killed(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    async with sqlite_environment(tmp_path, fork_server, seed=5) as environment:
        outcome = await run_chaos(environment)

    check(outcome)
    assert set(outcome.stats.victims) == {FaultTarget.SERVER}


@pytest.mark.slow
async def test_what_was_acknowledged_is_counted_exactly_once_while_replicas_are_killed_and_hang(
    fork_server: ForkServer, tmp_path: Path, postgres_url: str
) -> None:
    async with postgres_environment(tmp_path, fork_server, seed=5, url=postgres_url) as environment:
        outcome = await run_chaos(environment)

    check(outcome)
    assert {FaultTarget.LEADER, FaultTarget.FOLLOWER} <= set(outcome.stats.victims)


async def run_chaos(environment: ChaosEnvironment) -> ChaosOutcome:
    return await ChaosRun(environment, seed=5).run(KILLS)


def check(outcome: ChaosOutcome) -> None:
    report = ChaosReport(outcome, "sqlite")
    exactly_once = report.exactly_once
    assert json.loads(report.json_line()) == {
        "kills": KILLS,
        "acked": exactly_once.acked,
        "counted": exactly_once.counted,
        "lost": 0,
        "double": 0,
        "left": len(outcome.departed),
        "wrongly_counted": 0,
        "accepted": outcome.accepted,
        "discarded": outcome.recorded.phases.get(Phase.DISCARDED, 0),
        "release_steps": outcome.release_steps,
        "wrongly_released": 0,
    }
    assert outcome.release_violations == ()
    assert outcome.release_steps > 0
    assert report.departed_violations == []
    assert "| **lost** | **0** |" in report.section().body
    assert exactly_once.violations == ()
    assert (exactly_once.lost, exactly_once.double) == (0, 0)
    assert outcome.stats.kills == KILLS
    # A report that is counted without a receipt has a row all the same.
    assert exactly_once.counted == exactly_once.acked + sum(exactly_once.unacked.values())
    assert outcome.receipts.acked_again == 0
    assert outcome.recorded.phases[Phase.CLOSED] >= 4
    assert exactly_once.exact_sums >= 2
    assert outcome.accepted > 0
    evaluations = [one for id_, one in outcome.recorded.round_sums.items() if id_.startswith("judging-")]
    assert sum(one.is_published for one in evaluations) >= 1
    assert {one.departure for one in outcome.departed} == set(Departure)

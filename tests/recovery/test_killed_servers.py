"""Acked means counted, whatever happens to the servers. ``make kills`` is the long run of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recovery.findings import Findings
from tests.recovery.leavers import Departure
from tests.recovery.nursery import Nursery
from tests.recovery.plan import Target
from tests.recovery.stage import Stage, over_postgres, over_sqlite
from tests.recovery.story import Ending, Story

from keyflock_server.rounds.round import Phase

KILLS = 10


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery") / "log") as nursery:
        yield nursery


@pytest.mark.slow
async def test_what_was_acknowledged_is_counted_exactly_once_while_the_server_is_killed(
    nursery: Nursery, tmp_path: Path
) -> None:
    async with over_sqlite(tmp_path, nursery, seed=5) as stage:
        ending = await played(stage)

    check(ending)
    assert set(ending.tally.victims) == {Target.SERVER}


@pytest.mark.slow
async def test_what_was_acknowledged_is_counted_exactly_once_while_replicas_are_killed_and_hang(
    nursery: Nursery, tmp_path: Path, postgres_url: str
) -> None:
    async with over_postgres(tmp_path, nursery, seed=5, url=postgres_url) as stage:
        ending = await played(stage)

    check(ending)
    assert {Target.LEADER, Target.FOLLOWER} <= set(ending.tally.victims)


async def played(stage: Stage) -> Ending:
    return await Story(stage, seed=5).play(KILLS)


def check(ending: Ending) -> None:
    findings = Findings(ending, "sqlite")
    said = findings.verdict
    assert json.loads(findings.line()) == {
        "kills": KILLS,
        "acked": said.acked,
        "counted": said.counted,
        "lost": 0,
        "double": 0,
        "left": len(ending.lives),
        "wrongly_counted": 0,
        "accepted": ending.accepted,
        "discarded": ending.books.phases.get(Phase.DISCARDED, 0),
    }
    assert findings.wrongly_counted == []
    assert "| **lost** | **0** |" in findings.section().body
    assert said.faults == ()
    assert (said.lost, said.double) == (0, 0)
    assert ending.tally.kills == KILLS
    # Whoever is counted and never hears of it has a row all the same.
    assert said.counted == said.acked + sum(said.unacked.values())
    assert ending.ledger.acked_again == 0
    assert ending.books.phases[Phase.CLOSED] >= 4
    assert said.exact_aggregates >= 2
    assert ending.accepted > 0
    assert {life.departure for life in ending.lives} == set(Departure)

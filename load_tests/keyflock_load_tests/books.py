"""What the servers' database says of reports, to be held against the phones' receipts.

It is read as rows, not over the operators' port, which lists the newest rounds only, and does not name
assignments.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


@dataclass(frozen=True, slots=True)
class StoredCounts:
    """The reports of a task in the database."""

    #: The assignments whose reports are counted.
    assignments: frozenset[str]
    #: The reports in the rounds' sums, by the rounds' own count.
    in_rounds: int
    #: The rounds by phase.
    phases: dict[str, int]


async def read_counts(database_url: str, task: str) -> StoredCounts:
    """Return what the database says of a task; it may be in use."""
    engine = create_async_engine(database_url)
    try:
        async with engine.connect() as connection:
            counted = await connection.execute(
                text(
                    "SELECT a.id FROM assignments a JOIN rounds r ON r.id = a.round_id "
                    "WHERE r.task = :task AND a.counted_in IS NOT NULL"
                ),
                {"task": task},
            )
            rounds = (
                await connection.execute(
                    text(
                        "SELECT phase, COUNT(*), SUM(counted) FROM rounds WHERE task = :task GROUP BY phase"
                    ),
                    {"task": task},
                )
            ).all()
            return StoredCounts(
                assignments=frozenset(counted.scalars()),
                in_rounds=sum(int(reports) for _, _, reports in rounds),
                phases={phase: int(number) for phase, number, _ in rounds},
            )
    finally:
        await engine.dispose()

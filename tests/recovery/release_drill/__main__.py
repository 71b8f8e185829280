"""``make drill-release``: the gate on resampled phones, and releases over HTTP with simulated ones.

The last line on stdout is one JSON object: runs of the gate, the shares of versions 0.5 points worse and of
equal ones that passed, how many phones with 100 words each the gate needs, whether what was inconclusive was
held, keyboards that served a diverged version, seconds from rolling back until the last keyboard served the
version before, whether stages only widened, and whether the audit log is whole. Everything else is on stderr.
Exit status: 0 all is as promised; 1 it is not.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.recovery.fork_server import ForkServer
from tests.recovery.release_drill.environments import drill_postgres, drill_sqlite
from tests.recovery.release_drill.fleet_run import FleetOutcome
from tests.recovery.release_drill.gate_runs import GateShares, run_many
from tests.recovery.release_drill.resampled_phones import SimulatedUsers
from tests.services.postgres import PostgresServer, installed_binaries

_MAX_WORSE: Final = 0.05
_MIN_EQUAL: Final = 0.95


def main() -> int:
    """Run the drill, print the result, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make drill-release", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="releases of each kind on resampled phones")
    parser.add_argument("--seed", type=int, default=1, help="draws the users")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    shares = run_many(options.runs, SimulatedUsers(), options.seed)
    sys.stderr.write(f"{shares}\n")
    with tempfile.TemporaryDirectory(prefix="keyflock-release-") as name:
        outcome = _run_fleet(Path(name), options.store)
    sys.stderr.write(f"{outcome}\n")
    sys.stdout.write(json.dumps(result_line(shares, outcome)) + "\n")
    return 0 if is_as_promised(shares, outcome) else 1


def result_line(shares: GateShares, outcome: FleetOutcome) -> dict[str, object]:
    """Return the last line of the drill."""
    return {
        "runs": shares.runs,
        "worse_passed_share": shares.worse_passed_share,
        "equal_passed_share": shares.equal_passed_share,
        "phones_needed": shares.phones_needed,
        "inconclusive_held": shares.inconclusive_held,
        "diverged_served": outcome.diverged_served,
        "rollback_s": round(outcome.rollback_s, 2),
        "stages_only_widen": outcome.stages_only_widen,
        "audit_verified": outcome.audit_verified,
    }


def is_as_promised(shares: GateShares, outcome: FleetOutcome) -> bool:
    """Return whether the drill has shown what is promised."""
    return (
        shares.worse_passed_share <= _MAX_WORSE
        and shares.equal_passed_share >= _MIN_EQUAL
        and shares.inconclusive_held
        and outcome.is_worse_blocked
        and outcome.diverged_served == 0
        and outcome.stages_only_widen
        and outcome.audit_verified
    )


def _run_fleet(folder: Path, store: str) -> FleetOutcome:
    with ForkServer(folder / "fork_server.log") as fork_server:
        if store == "sqlite":
            return asyncio.run(drill_sqlite(folder, fork_server))
        binaries, _ = installed_binaries()
        with PostgresServer.folder() as database:
            server = PostgresServer(database, binaries)
            server.start()
            try:
                return asyncio.run(drill_postgres(folder, fork_server, server.url(server.create())))
            finally:
                server.stop()


if __name__ == "__main__":
    sys.exit(main())

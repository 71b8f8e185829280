"""Acked means counted, whatever happens to the server."""

from pathlib import Path

import numpy as np
import pytest
from tests.recovery.killed_server import ROUND_GOAL, run_with_kills


@pytest.mark.slow
async def test_what_was_acknowledged_is_counted_exactly_once_through_kills(tmp_path: Path) -> None:
    findings = await run_with_kills(tmp_path, phones=24, kills=6, seed=1)

    closed = [one for one in findings.rounds if one.phase == "closed"]
    # A delta of minus one, averaged over eight, is an eighth in the model.
    in_model = findings.weights * ROUND_GOAL
    counted = {phone: int(in_model[phone]) for phone in range(24)}
    assert findings.kills == 6
    assert len(closed) >= 3
    assert {one.phase for one in findings.rounds} <= {"closed", "collecting"}
    assert all(one.counted == ROUND_GOAL for one in closed)
    np.testing.assert_array_equal(in_model, np.rint(in_model))
    assert not in_model[24:].any()
    assert sum(counted.values()) == ROUND_GOAL * len(closed)
    # Nothing lost, nothing twice: both sides count the same, phone by phone but for the round still open.
    still_open = sum(one.counted for one in findings.rounds if one.phase == "collecting")
    missing = {phone: findings.acked[phone] - counted[phone] for phone in range(24)}
    assert min(missing.values()) >= 0
    assert max(missing.values()) <= 1
    assert sum(missing.values()) == still_open

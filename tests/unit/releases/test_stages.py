"""Each device has one bucket for ever, and a wider stage has every device of a narrower one."""

from itertools import pairwise

import pytest

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.stages import BUCKETS, bucket_of, is_in_stage

EN_GB, NL_NL = PopulationName("en_gb"), PopulationName("nl_nl")
DEVICES = [f"device-{number}" for number in range(20_000)]


def test_a_buckets_number_never_changes() -> None:
    assert [bucket_of(EN_GB, name) for name in ("a", "b", "device-7")] == [4946, 9597, 3849]
    assert bucket_of(NL_NL, "a") == 559
    assert bucket_of(PopulationName("x" * 64 + "-17"), "a") == 4177


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_stage_has_its_share_of_the_devices(percent: int) -> None:
    share = sum(is_in_stage(bucket_of(EN_GB, device), percent) for device in DEVICES) / len(DEVICES)

    # Five standard deviations of a binomial share: a false alarm in 1.7 million seeds, and this is one seed.
    spread = (percent / 100 * (1 - percent / 100) / len(DEVICES)) ** 0.5
    assert share == pytest.approx(percent / 100, abs=5 * spread)


def test_a_wider_stage_has_every_device_of_a_narrower_one() -> None:
    buckets = [bucket_of(EN_GB, device) for device in DEVICES[:2_000]]

    stages = [
        {place for place, one in enumerate(buckets) if is_in_stage(one, p)} for p in (0, 1, 10, 50, 100)
    ]

    assert all(narrow <= wide for narrow, wide in pairwise(stages))
    assert stages[0] == set()
    assert len(stages[-1]) == len(buckets)


def test_the_bounds_of_a_stage_are_exact() -> None:
    assert is_in_stage(99, 1)
    assert not is_in_stage(100, 1)
    assert not is_in_stage(0, 0)
    assert is_in_stage(BUCKETS - 1, 100)


def test_a_device_in_another_population_is_in_another_bucket() -> None:
    same = sum(bucket_of(EN_GB, device) == bucket_of(NL_NL, device) for device in DEVICES)

    assert same < 12  # two are expected; more than eleven in one seed of a hundred thousand

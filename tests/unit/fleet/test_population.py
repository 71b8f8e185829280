"""Phones that differ, and stay the same for the same seed."""

from pathlib import Path
from statistics import median

import msgspec
import pytest

from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES, FleetProfile, ProfileError, read_profile
from keyflock_server.protocol.identifiers import PopulationName

REALISTIC = PROFILES["realistic"]


def _fleet(count: int, seed: int = 7, profile: FleetProfile = REALISTIC) -> tuple[Phone, ...]:
    examples = {f"phone-{number}": 10 + number for number in range(count)}
    return make_fleet(examples, population=PopulationName("en-US"), profile=profile, seed=seed)


def test_the_same_seed_makes_the_same_fleet_and_another_seed_another_one() -> None:
    first, again, other = _fleet(20), _fleet(20), _fleet(20, seed=8)

    assert [phone.traits for phone in first] == [phone.traits for phone in again]
    assert [phone.rng.random() for phone in first] == [phone.rng.random() for phone in again]
    assert [phone.traits for phone in first] != [phone.traits for phone in other]


def test_a_larger_fleet_has_the_same_phones_and_some_more() -> None:
    small, large = _fleet(5), _fleet(50)

    assert [phone.traits for phone in small] == [phone.traits for phone in large[:5]]


def test_phones_are_unequal_around_the_profile() -> None:
    fleet = _fleet(400)

    speeds = sorted(phone.traits.seconds_per_example for phone in fleet)
    # The median of 400 draws of a log-normal lies within exp(+-0.15) of the true one but for one in 30,000
    # fleets: its logarithm has a standard error of 1.25 * 0.6 / 20 = 0.0376.
    assert 0.05 * 0.86 < median(speeds) < 0.05 * 1.17
    assert speeds[-20] > 2 * speeds[20]
    assert {phone.traits.app_build for phone in fleet} == {98, 99, 100}
    assert {phone.traits.locale for phone in fleet} == {"en-US", "en-GB", "en-IN"}


def test_a_device_introduces_itself_as_its_phone_is() -> None:
    for phone in _fleet(20):
        installation = phone.device.installation
        assert (installation.app_build, installation.locale) == (phone.traits.app_build, phone.traits.locale)
        assert phone.status().examples == phone.examples


def test_an_ideal_phone_takes_no_time_and_loses_nothing() -> None:
    (phone,) = _fleet(1, profile=PROFILES["ideal"])

    assert phone.traits.train_s(1_000) == 0.0
    assert (phone.traits.latency_s, phone.traits.loss_share, phone.traits.drop_out_share) == (0.0, 0.0, 0.0)
    assert phone.traits.idle_hours == 24.0


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_named_profile_keeps_its_own_bounds(name: str) -> None:
    assert msgspec.convert(msgspec.to_builtins(PROFILES[name]), FleetProfile) == PROFILES[name]


@pytest.mark.fault("F7")
def test_a_byte_order_mark_is_no_part_of_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "slow.toml"
    file.write_text("\ufeffseconds_per_example = 0.5\n", encoding="utf-8")

    assert read_profile(str(file)).seconds_per_example == 0.5


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "slow.toml"
    file.write_text("seconds_per_example = 0.5\ndrop_out_share = 0.25\n[app_builds]\n7 = 1.0\n")

    profile = read_profile(str(file))

    assert (profile.seconds_per_example, profile.drop_out_share, profile.app_builds) == (
        0.5,
        0.25,
        {"7": 1.0},
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"drop_out_share = 1.5", "drop_out_share"),
        (b"dropout = 0.1", "dropout"),
        (b"drop_out_share = ", "slow.toml"),
        (b"\xff", "slow.toml"),
    ],
)
def test_a_bad_profile_file_is_refused_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "slow.toml"
    file.write_bytes(content)

    with pytest.raises(ProfileError, match=complaint) as refused:
        read_profile(str(file))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["fast", "no/such/file.toml"])
def test_a_profile_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(ProfileError, match=source):
        read_profile(source)

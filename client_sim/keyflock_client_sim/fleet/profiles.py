"""A fleet profile describes phones by medians, spreads and shares; it has a name, or is a TOML file."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Hours = Annotated[float, Meta(ge=0.0, le=24.0)]


class ProfileError(ValueError):
    """There is no such profile, or the file is none; the message is one line for the user."""


class FleetProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The traits of a population. Spreads are standard deviations of the logarithm; 0 means none."""

    #: Seconds that the median phone trains on one sequence.
    seconds_per_example: NotNegative = 0.02
    speed_spread: NotNegative = 0.5
    #: Upload and download speed of the median phone.
    up_bytes_s: Positive = 500_000.0
    down_bytes_s: Positive = 2_500_000.0
    #: The latency of a call and its answer together, without the bytes.
    latency_s: NotNegative = 0.08
    network_spread: NotNegative = 0.8
    #: The share of calls that get lost; half of them on the way to the server, half on the way back.
    loss_share: Share = 0.01
    #: How long a phone waits for an answer that will not come.
    call_timeout_s: Positive = 30.0
    #: The share of visits on a metered network.
    metered_share: Share = 0.0
    #: The maximum upload of a phone on a metered network; left out, there is no limit.
    metered_budget_bytes: Annotated[int, Meta(ge=512)] | None = None
    #: A phone that uploads more slowly reports itself as slow.
    slow_below_bytes_s: NotNegative = 0.0
    #: The share of assignments during which the phone's user comes back.
    drop_out_share: Share = 0.08
    #: The share of drop-outs that the phone does not report before its next visit.
    silent_share: Share = 0.5
    #: How long such a phone stays away, on average.
    absence_s: NotNegative = 1_800.0
    #: When phones become idle and charging, on average, as the hour of their day; 24 hours idle is always.
    idle_from_h: Hours = 23.0
    idle_hours: Hours = 24.0
    #: Standard deviation of both among phones, in hours.
    idle_spread_h: NotNegative = 0.0
    #: Phones come up one after the other over this long.
    ramp_s: NotNegative = 0.0
    #: Share of the phones by app build.
    app_builds: Mapping[str, Share] = field(default_factory=lambda: {"100": 1.0})
    #: Share of the phones by locale.
    locales: Mapping[str, Share] = field(default_factory=lambda: {"en-US": 1.0})
    #: Share of the phones by tier: 0 unknown, 1 low, 2 mid, 3 high.
    tiers: Mapping[str, Share] = field(default_factory=lambda: {"1": 0.3, "2": 0.5, "3": 0.2})
    #: Share of the phones that has each tag.
    tags: Mapping[str, Share] = field(default_factory=lambda: {"beta": 0.05})
    #: Words typed a day on the median phone.
    words_a_day: Positive = 400.0
    words_spread: NotNegative = 0.8
    #: Days with typing before the first visit, on average.
    days_of_text: Positive = 60.0
    #: Free storage of the median phone.
    free_storage_bytes: Positive = 8e9
    storage_spread: NotNegative = 1.0
    #: The share of phones whose user has switched learning on.
    opt_in_share: Share = 1.0


PROFILES: Final[Mapping[str, FleetProfile]] = MappingProxyType(
    {
        # Always on and quick, so that a round takes seconds; with enough failures to show what over-selection
        # and repeated calls are for.
        "demo": FleetProfile(
            seconds_per_example=0.0,
            latency_s=0.02,
            call_timeout_s=2.0,
            drop_out_share=0.08,
            absence_s=20.0,
            ramp_s=2.0,
        ),
        # Idle at night. Drop-outs as Bonawitz et al. 2019, section 9, saw them: 6 to 10 %.
        "realistic": FleetProfile(
            seconds_per_example=0.05,
            speed_spread=0.6,
            loss_share=0.03,
            metered_share=0.1,
            slow_below_bytes_s=100_000.0,
            idle_hours=7.0,
            idle_spread_h=1.5,
            ramp_s=3_600.0,
            app_builds={"98": 0.1, "99": 0.3, "100": 0.6},
            locales={"en-US": 0.7, "en-GB": 0.2, "en-IN": 0.1},
        ),
        # Always idle, but of a hundred phones one trains thirty times as long as the median: who waits for
        # all waits for that one.
        "heavy_tailed": FleetProfile(
            seconds_per_example=1.0,
            speed_spread=1.5,
            drop_out_share=0.1,
            ramp_s=120.0,
        ),
        # Nothing ever goes wrong and nothing takes time: for tests, and for measuring a server alone.
        "ideal": FleetProfile(
            seconds_per_example=0.0,
            speed_spread=0.0,
            latency_s=0.0,
            network_spread=0.0,
            loss_share=0.0,
            drop_out_share=0.0,
        ),
    }
)


def read_profile(source: str) -> FleetProfile:
    """Return the profile of this name, or of the ``.toml`` file at this path.

    Raises:
        ProfileError: there is none, or the file is no valid profile.
    """
    if source in PROFILES:
        return PROFILES[source]
    if not source.endswith(".toml"):
        raise ProfileError(
            f"no fleet profile {source!r}; there are {', '.join(PROFILES)}, or give a .toml file"
        )
    try:
        return msgspec.toml.decode(Path(source).read_text(encoding="utf-8-sig"), type=FleetProfile)
    except OSError as error:
        raise ProfileError(f"{source}: {error.strerror or error}") from None
    except msgspec.MsgspecError as error:
        fields = f"; there are {', '.join(FleetProfile.__struct_fields__)}" if "unknown" in str(error) else ""
        raise ProfileError(f"{source}: {error}{fields}") from None
    except UnicodeDecodeError:
        raise ProfileError(f"{source}: not UTF-8 text") from None

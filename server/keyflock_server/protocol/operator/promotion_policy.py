"""A population's promotion policy: who promotes versions, how fast, and what the gate asks of them."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final

from msgspec import Meta, Struct

#: The stage that has all devices.
EVERYBODY: Final = 100
#: Fewer phones than this are no basis for the gate's test: their mean is not close enough to a normal one.
MIN_USERS: Final = 30


class Promotion(StrEnum):
    """Who makes a new version the one that keyboards serve."""

    #: Every version that passed the checks before publishing, at once.
    AUTOMATIC = "automatic"
    #: An operator, by hand.
    MANUAL = "manual"
    #: The gate: the newest version becomes the candidate, and goes through the stages while the gate passes.
    GATE = "gate"


class PromotionPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set for a population's releases (docs/decisions/0055)."""

    promotion: Promotion = Promotion.AUTOMATIC
    #: The stages in percent of the devices; the last one is everybody.
    stages: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=EVERYBODY)], ...], Meta(min_length=1, max_length=20)
    ] = (1, 10, 50, EVERYBODY)
    #: The minimum time in one stage before the next one.
    min_stage_s: Annotated[float, Meta(ge=0.0, le=31_536_000.0)] = 86_400.0
    #: How much worse a candidate may be, in points of recall@3.
    margin_points: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.5
    #: One-sided confidence of the gate over all its looks.
    confidence: Annotated[float, Meta(ge=0.5, lt=1.0)] = 0.95
    #: The gate decides nothing before so many phones have evaluated a candidate.
    min_users: Annotated[int, Meta(ge=MIN_USERS, le=10_000_000)] = 400
    #: Whether a candidate that fails is taken back by itself; otherwise it is held for an operator.
    rolls_back_on_fail: bool = True
    #: Whether the gate only says what it would do.
    is_dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse stages that do not widen up to everybody."""
        if self.stages[-1] != EVERYBODY or any(wide <= narrow for narrow, wide in pairwise(self.stages)):
            raise ValueError("stages: each must be wider than the one before, and the last one 100")

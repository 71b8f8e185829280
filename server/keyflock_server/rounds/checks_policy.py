"""``[checks]``: what a new version must not exceed, or its round is held until an operator decides."""

from typing import Annotated, Final

from msgspec import Meta, Struct

#: Committed rounds of the task that a step is compared with.
CHECKS_HISTORY: Final = 16

_Ratio = Annotated[float, Meta(ge=0.0, le=1e6)]
_Nats = Annotated[float, Meta(ge=0.0, le=1e3)]


class ChecksPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the checks before a version becomes the newest; 0 switches one off.

    Weights that are infinite, or no numbers, are never published, whatever is written here. The defaults are
    measured (docs/decisions/0038).
    """

    #: The step's norm, and its longest embedding row, against the longest mean delta of this round and of
    #: the last sixteen.
    max_step_ratio: _Ratio = 30.0
    #: The same two against the longest step of the last sixteen rounds; where deltas are clipped, a step in
    #: proportion to its mean delta, as theirs were, is none that grew.
    max_step_growth: _Ratio = 5.0
    #: Nats a word by which the loss on the anchor text may rise in one step.
    max_anchor_rise: _Nats = 1.5
    #: Nats a word by which it may lie above that of the version that a person last chose: version 0, one that
    #: was accepted, or one that the population was rolled back to.
    max_anchor_drift: _Nats = 3.0

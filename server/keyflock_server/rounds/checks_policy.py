"""``[checks]``: bounds for a new version; beyond them its round is held until an operator decides."""

from typing import Annotated, Final

from msgspec import Meta, Struct

#: Number of the task's committed rounds that a step is compared with.
CHECKS_HISTORY: Final = 16

_Ratio = Annotated[float, Meta(ge=0.0, le=1e6)]
_Nats = Annotated[float, Meta(ge=0.0, le=1e3)]


class ChecksPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of the checks before a version becomes the newest; 0 switches one off.

    Infinite or NaN weights are never published, whatever the bounds. The defaults are
    measured (docs/decisions/0038).
    """

    #: Maximum ratio of the step's norm, and of its longest embedding row, to the longest mean delta of this
    #: round and of the last sixteen.
    max_step_ratio: _Ratio = 30.0
    #: Maximum ratio of the same two to the longest step of the last sixteen rounds; where deltas are clipped,
    #: a step in the usual proportion to its mean delta passes.
    max_step_growth: _Ratio = 5.0
    #: Maximum rise of the loss on the anchor text in one step, nats a word.
    max_anchor_rise: _Nats = 1.5
    #: Maximum rise of that loss above the version that an operator last chose, nats a word: version 0, an
    #: accepted version, or one that the population was rolled back to.
    max_anchor_drift: _Nats = 3.0

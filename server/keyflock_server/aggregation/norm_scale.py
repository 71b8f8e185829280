"""The norm scale: the usual norm of a task's deltas, and the unit of its bounds. It moves slowly.

A scale begins with the server's own reference (``reference_delta``) and follows the median norm of admitted
reports: by a bounded factor a round, and never further than a bounded factor from the reference. So phones
that report first, or often, cannot make honest deltas exceed the clip within a round, nor ever the bound.

A scale belongs to one codec table, because codecs shorten and lengthen deltas: ``topk`` leaves values out,
``randmask`` multiplies those that it sends.

Source: the median is that of adaptive clipping (Andrew et al. 2021, arXiv:1905.03871), without its privacy;
the bounds are ours: docs/decisions/0040.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from keyflock_compression import CodecSpec, Float32Spec, Layout, decode, encode, parse_spec
from keyflock_models.arrays import F32
from keyflock_server.aggregation.norm_histogram import NormHistogram

#: Maximum norm of any delta, far beyond those of a working model; the sum of 1e5 of them at the largest
#: weight still fits float32. It holds for every task: without it one finite delta could make the sum
#: infinite.
MAX_NORM: Final = 1e6
#: A shorter delta, in units of the scale, does not count towards a flush: docs/decisions/0004.
THIN_RATIO: Final = 0.01
#: Maximum factor by which a round moves a scale.
MAX_STEP_RATIO: Final = 1.25
#: Minimum number of norms for a median that the scale follows.
MIN_NORMS: Final = 8
#: Bounds of a scale as factors of its reference.
FLOOR_RATIO: Final = 0.25
CEILING_RATIO: Final = 8.0
#: Minimum ratio of the coded reference's norm to its own, for codecs that round it to zero.
_MIN_CODED_RATIO: Final = 1e-3
_SEED: Final = 0


class NormScale(Struct, frozen=True, kw_only=True):
    """The norm scale of one codec table, in units of the parameters.

    Guarantees:
        ``FLOOR_RATIO`` and ``CEILING_RATIO`` times the reference bound the scale.
    """

    #: The usual norm now.
    scale: float
    #: The norm of the server's own delta.
    reference: float

    @classmethod
    def initial(cls, reference: float) -> "NormScale":
        """Return the scale of a task that has had no round."""
        return cls(scale=reference, reference=reference)

    def after_round(self, median: float) -> "NormScale":
        """Return the scale after a round whose reports had this median norm, in units of the parameters."""
        step = min(max(median / self.scale, 1.0 / MAX_STEP_RATIO), MAX_STEP_RATIO)
        low, high = FLOOR_RATIO * self.reference, CEILING_RATIO * self.reference
        return NormScale(scale=min(max(self.scale * step, low), high), reference=self.reference)


#: Norm scales by the name of the codec table: ``codec``, ``codec_by_network.metered`` and so on.
NormScales = Mapping[str, NormScale]


def initial_scales(
    delta: F32, layout: Layout, codecs: Mapping[str, Mapping[str, object]]
) -> dict[str, NormScale]:
    """Return the scales of a task that has had no round.

    Args:
        delta: The result of ``reference_delta``. Shape (P,), float32.
        layout: The layout of the deltas.
        codecs: The wire form of each codec that a phone may be given, by its table.
    Edge cases:
        a delta of zeros -> no scales: norms are bounded by ``MAX_NORM`` alone
    """
    whole = _norm_as_sent(delta, layout, Float32Spec(entropy="none"))
    if whole == 0.0:
        return {}
    return {
        table: NormScale.initial(
            min(MAX_NORM, max(_norm_as_sent(delta, layout, spec), _MIN_CODED_RATIO * whole))
        )
        for table, spec in ((table, parse_spec(codec)) for table, codec in codecs.items())
    }


def scales_after_round(before: NormScales, norms: NormHistogram) -> dict[str, NormScale]:
    """Return the scales after a round that accepted reports of these norms, before clipping.

    Edge cases:
        fewer than ``MIN_NORMS`` of a table -> its scale is unchanged
    """
    return {
        table: scale.after_round(norms.median(table)) if norms.count(table) >= MIN_NORMS else scale
        for table, scale in before.items()
    }


def scales_to_json(scales: NormScales) -> bytes:
    """Return the scales as stored JSON."""
    return msgspec.json.encode(scales)


def scales_from_json(data: bytes | None) -> dict[str, NormScale]:
    """Return the scales that ``scales_to_json`` encoded; None means none yet."""
    return {} if data is None else msgspec.json.decode(data, type=dict[str, NormScale])


def _norm_as_sent(delta: F32, layout: Layout, spec: CodecSpec) -> float:
    container = encode(delta, layout, spec, seed=_SEED)
    return decode(container, layout, spec=spec, seed=_SEED).l2_norm

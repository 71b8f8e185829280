"""How long a task's deltas usually are: the unit in which lengths are judged. It persists and moves slowly.

A scale begins with the server's own reference (``reference_delta``) and follows the median norm of what
rounds accept: by a bounded factor a round, never further than a bounded factor from the reference. So whoever
reports first, or most, cannot make honest deltas look long within a round, nor ever make them look too long
to count.

A scale belongs to one table of codecs, because codecs shorten and lengthen deltas: ``topk`` leaves values
out, ``randmask`` multiplies those that it sends.

Source: the median is that of adaptive clipping (Andrew et al. 2021, arXiv:1905.03871), without its privacy;
the bounds are ours: docs/decisions/0040.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from keyflock_compression import CodecSpec, Layout, decode, encode
from keyflock_models.arrays import F32
from keyflock_server.aggregation.norm_histogram import NormHistogram

#: No delta of a model that works comes near; 1e5 of them at the largest weight still fit float32. This bound
#: holds whatever the task says: without it one phone's finite delta could make the sum of all infinite.
MAX_NORM: Final = 1e6
#: A shorter delta, in units of the scale, does not make a flush larger: docs/decisions/0004.
THIN_RATIO: Final = 0.01
#: How far a round moves a scale at most.
MAX_STEP_RATIO: Final = 1.25
#: Fewer norms have no median that is worth following.
MIN_NORMS: Final = 8
#: How far from its reference a scale ever goes, down and up.
FLOOR_RATIO: Final = 0.25
CEILING_RATIO: Final = 8.0
#: Of a codec that rounds the reference to nothing: the least part of its length that counts.
_LEAST_CODED_RATIO: Final = 1e-3
_SEED: Final = 0


class NormScale(Struct, frozen=True, kw_only=True):
    """One scale, in units of the parameters.

    Guarantees:
        ``FLOOR_RATIO`` and ``CEILING_RATIO`` times the reference bound the scale.
    """

    #: The norm that is usual now.
    scale: float
    #: The norm of the server's own delta.
    reference: float

    @classmethod
    def beginning(cls, reference: float) -> "NormScale":
        """Return the scale of a task that has had no round."""
        return cls(scale=reference, reference=reference)

    def after_round(self, median: float) -> "NormScale":
        """Return the scale after a round whose reports had this median norm, in units of the parameters."""
        step = min(max(median / self.scale, 1.0 / MAX_STEP_RATIO), MAX_STEP_RATIO)
        low, high = FLOOR_RATIO * self.reference, CEILING_RATIO * self.reference
        return NormScale(scale=min(max(self.scale * step, low), high), reference=self.reference)


#: By the name of the codec table: ``codec``, ``codec_by_network.metered`` and so on.
NormScales = Mapping[str, NormScale]


def beginning_scales(
    delta: F32, layout: Layout, codecs: Mapping[str, Mapping[str, object]]
) -> dict[str, NormScale]:
    """Return the scales of a task that has had no round.

    Args:
        delta: What ``reference_delta`` gives. Shape (P,), float32.
        layout: Of the deltas.
        codecs: The wire form of each codec that a phone may be given, by its table.
    Edge cases:
        a delta of zeros -> no scales: lengths are not judged, but for ``MAX_NORM``
    """
    whole = _norm_as_sent(delta, layout, CodecSpec(codec="float32", entropy="none"))
    if whole == 0.0:
        return {}
    return {
        table: NormScale.beginning(
            min(MAX_NORM, max(_norm_as_sent(delta, layout, spec), _LEAST_CODED_RATIO * whole))
        )
        for table, spec in ((table, CodecSpec.from_wire(codec)) for table, codec in codecs.items())
    }


def scales_after_round(before: NormScales, norms: NormHistogram) -> dict[str, NormScale]:
    """Return the scales after a round that accepted reports of these norms, before clipping.

    Edge cases:
        fewer than ``MIN_NORMS`` of a table -> its scale stays
    """
    return {
        table: scale.after_round(norms.median(table)) if norms.count(table) >= MIN_NORMS else scale
        for table, scale in before.items()
    }


def scales_to_json(scales: NormScales) -> bytes:
    """Return the form in which scales are stored."""
    return msgspec.json.encode(scales)


def stored_scales(data: bytes | None) -> dict[str, NormScale]:
    """Return what ``scales_to_json`` wrote; None: there are none yet."""
    return {} if data is None else msgspec.json.decode(data, type=dict[str, NormScale])


def _norm_as_sent(delta: F32, layout: Layout, spec: CodecSpec) -> float:
    container = encode(delta, layout, spec, seed=_SEED)
    return decode(container, layout, spec=spec, seed=_SEED).l2_norm

"""Verdicts on reports before they are summed: a closed list, counted with the round and in the metrics.

A verdict of rejection names what is wrong with the phone's report; it is never a fault of the server, which
is an error. Verdicts on admitted reports are counted too: clipped ones, and thin ones, which do not count
towards a flush.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from keyflock_compression import CodecError, DecodedUpdate, Layout, NonFinite, WrongLayout, WrongSpec


class Verdict(StrEnum):
    """The verdicts on reports that are counted."""

    #: The bytes are no delta.
    MALFORMED = "malformed"
    #: The delta was encoded with another spec than the assignment's.
    WRONG_CODEC = "wrong_codec"
    WRONG_LAYOUT = "wrong_layout"
    NON_FINITE = "non_finite"
    #: The norm exceeds the round's bound.
    NORM_EXCEEDED = "too_long"
    #: A phone's evidence, of its personalisation or an evaluation, is out of bounds.
    EVIDENCE_BOUND = "evidence_bound"
    #: The phone claims more examples than the assignment allows.
    TOO_MANY_EXAMPLES = "too_many_examples"
    #: An admitted delta was scaled down.
    CLIPPED_UPDATES = "clipped_updates"
    #: Rows of the embedding were scaled down in an admitted delta.
    CLIPPED_ROWS = "clipped_rows"
    #: An admitted report is thin: it is nearly zero, or repeats another one, and does not count towards a
    #: flush.
    THIN_REPORTS = "thin_reports"


#: Verdicts on admitted reports.
REMARKS: Final = frozenset({Verdict.CLIPPED_UPDATES, Verdict.CLIPPED_ROWS, Verdict.THIN_REPORTS})
#: Verdicts on rejected reports.
REFUSALS: Final = frozenset(Verdict) - REMARKS
#: Verdicts that are violations of a device. An exceeded norm alone is none: an honest delta may be long.
VIOLATIONS: Final = REFUSALS - {Verdict.NORM_EXCEEDED}

_OF_CODEC: Final = MappingProxyType(
    {WrongLayout: Verdict.WRONG_LAYOUT, NonFinite: Verdict.NON_FINITE, WrongSpec: Verdict.WRONG_CODEC}
)


@dataclass(frozen=True, slots=True)
class AdmittedReport:
    """A report that is added to the sum.

    Attributes:
        update: The delta to add, with its rows clipped.
        scale: The factor of the whole delta, at most 1, with which its norm is within the clip.
        clipped_rows: Number of clipped rows.
        norm: The norm before clipping, for the round's histogram; None if it is not to be counted.
        is_thin: Whether the report is nearly zero or repeats another one, so that it does not count towards
            a flush.
    """

    update: DecodedUpdate
    scale: float = 1.0
    clipped_rows: int = 0
    norm: float | None = None
    is_thin: bool = False

    @property
    def counts(self) -> dict[Verdict, int]:
        """Return the verdicts to count; empty for most reports."""
        found = {
            Verdict.CLIPPED_UPDATES: int(self.scale < 1.0),
            Verdict.CLIPPED_ROWS: self.clipped_rows,
            Verdict.THIN_REPORTS: int(self.is_thin),
        }
        return {verdict: count for verdict, count in found.items() if count > 0}


@dataclass(frozen=True, slots=True)
class RejectedReport:
    """A report that is not added to the sum."""

    verdict: Verdict
    #: The reason: one sentence without its full stop.
    detail: str


class ReportValidator(Protocol):
    """Validates decoded reports before they are summed. It has no state: each report is validated alone."""

    def validate(self, update: DecodedUpdate, layout: Layout, table: str) -> AdmittedReport | RejectedReport:
        """Return whether a report is admitted, and its clipped form.

        Args:
            update: The report's delta, or its evidence.
            layout: The layout of the update.
            table: The codec table of the report's codec (``TaskSpec.codecs`` has the names).
        """
        ...

    def clipped(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:
        """The ``Admitted.update`` of a report that was admitted, once more."""
        ...


def verdict_for(error: CodecError) -> Verdict:
    """Return the verdict on bytes that could not be decoded."""
    return _OF_CODEC.get(type(error), Verdict.MALFORMED)

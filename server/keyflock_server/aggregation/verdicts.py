"""What is said of a report before it is summed: a closed list, counted with the round and in the metrics.

A refusal names what the phone sent and the round does not take; it is never the server's own trouble, which
is an error and says nothing of the phone. What was clipped is counted too: it is in the sum, shortened. So is
what is in the sum and makes no flush larger.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from keyflock_compression import CodecError, DecodedUpdate, Layout, NonFinite, WrongLayout, WrongSpec


class Verdict(StrEnum):
    """What is counted of reports."""

    #: The bytes are no delta.
    MALFORMED = "malformed"
    #: They were encoded with another spec than the assignment's.
    WRONG_CODEC = "wrong_codec"
    WRONG_LAYOUT = "wrong_layout"
    NON_FINITE = "non_finite"
    #: The norm is beyond the round's bound.
    TOO_LONG = "too_long"
    #: A phone's evidence of its personalisation says what cannot be.
    EVIDENCE_BOUND = "evidence_bound"
    #: More examples than the assignment lets a phone use.
    TOO_MANY_EXAMPLES = "too_many_examples"
    #: Deltas that were taken in, scaled down.
    CLIPPED_UPDATES = "clipped_updates"
    #: Rows of the embedding that were scaled down, in deltas that were taken in.
    CLIPPED_ROWS = "clipped_rows"
    #: Reports that were taken in and do not make a flush larger: nearly nothing, or what was sent before.
    THIN_REPORTS = "thin_reports"


#: Verdicts on reports that were taken in all the same.
REMARKS: Final = frozenset({Verdict.CLIPPED_UPDATES, Verdict.CLIPPED_ROWS, Verdict.THIN_REPORTS})
#: Verdicts on reports that were not.
REFUSALS: Final = frozenset(Verdict) - REMARKS
#: Verdicts that are held against a device. A delta's length alone is not: an honest one may be long.
STRIKES: Final = REFUSALS - {Verdict.TOO_LONG}

_OF_CODEC: Final = MappingProxyType(
    {WrongLayout: Verdict.WRONG_LAYOUT, NonFinite: Verdict.NON_FINITE, WrongSpec: Verdict.WRONG_CODEC}
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A report that is summed.

    Attributes:
        update: What to add, its rows clipped.
        scale: At most 1: what the whole is multiplied with, so that its norm is within the clip.
        clipped_rows: How many rows were scaled down.
        norm: Before clipping, where it is to be counted with the round's norms; None where not.
        is_thin: Whether a flush is not larger by it: it says nearly nothing, or what was said before.
    """

    update: DecodedUpdate
    scale: float = 1.0
    clipped_rows: int = 0
    norm: float | None = None
    is_thin: bool = False

    @property
    def counts(self) -> dict[Verdict, int]:
        """What is to be counted of it; empty for most."""
        found = {
            Verdict.CLIPPED_UPDATES: int(self.scale < 1.0),
            Verdict.CLIPPED_ROWS: self.clipped_rows,
            Verdict.THIN_REPORTS: int(self.is_thin),
        }
        return {verdict: count for verdict, count in found.items() if count > 0}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A report that is not."""

    verdict: Verdict
    #: One sentence without its full stop.
    detail: str


class Judge(Protocol):
    """Looks at decoded reports before they are summed. It learns nothing from them: each is judged alone."""

    def judge(self, update: DecodedUpdate, layout: Layout, table: str) -> Admitted | Rejected:
        """Whether it is summed, and what of it.

        Args:
            update: The report's delta, or its evidence.
            layout: Of it.
            table: Which of the task's codec tables it was encoded by (``TaskSpec.codecs`` has the names).
        """
        ...

    def shortened(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:
        """The ``Admitted.update`` of a report that was admitted, once more."""
        ...


def verdict_on(error: CodecError) -> Verdict:
    """The verdict on bytes that could not be decoded."""
    return _OF_CODEC.get(type(error), Verdict.MALFORMED)

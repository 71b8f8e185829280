"""The result of a demo: a row a round, and the final figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult
from keyflock_models.evaluation.paired_bootstrap import Comparison

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of words that are among the first k suggestions; unknown words count as misses."""

    at_1: float
    at_3: float


@dataclass(frozen=True, slots=True)
class RoundRow:
    """The figures of one committed round."""

    sequence: int
    #: The model version that it made.
    version: int
    #: Reports in the aggregate.
    reports: int
    #: Phones that took work in this round and sent no report that was counted.
    drop_outs: int
    #: Recall on a fixed sample of the held-out phones; None: not evaluated.
    recall: Recall | None
    bytes_per_report: float
    seconds: float

    def with_recall(self, recall: Recall) -> Self:
        """Return the same round with its recall."""
        return replace(self, recall=recall)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the whole run. Recalls are over all held-out phones."""

    rounds: tuple[RoundRow, ...]
    reports_acked: int
    reports_counted: int
    start: Recall
    #: Recall of version 0 on the sample that rounds are evaluated on.
    start_on_sample: Recall
    end: Recall
    unigram: Recall
    trigram: Recall
    #: The gain in recall@1 over version 0, with its 95 % interval over users.
    gain_at_1: Comparison
    gain_at_3: Comparison
    bytes_per_report: float
    parameters: int
    #: The error that compression makes on a round's mean delta; None: not measured.
    cohort_nmse: float | None
    devices: int
    held_out_devices: int
    pretrain_s: float
    seconds: float
    #: Personalisation of held-out phones on the last version; None where no phone has enough words.
    personal: PersonalisationResult | None = None

    @property
    def fp32_bytes(self) -> int:
        """Return the size of one uncompressed delta."""
        return self.parameters * FLOAT32_BYTES

    @property
    def bits_per_parameter(self) -> float:
        """Return the bits on the wire per parameter of a delta."""
        return 8.0 * self.bytes_per_report / self.parameters

    def summary(self) -> dict[str, object]:
        """Return the result as plain values, for one JSON line."""
        return {
            "rounds": len(self.rounds),
            "reports_acked": self.reports_acked,
            "reports_counted": self.reports_counted,
            "start_recall_at_1": self.start.at_1,
            "start_recall_at_3": self.start.at_3,
            "recall_at_1": self.end.at_1,
            "recall_at_3": self.end.at_3,
            "unigram_recall_at_1": self.unigram.at_1,
            "unigram_recall_at_3": self.unigram.at_3,
            "trigram_recall_at_1": self.trigram.at_1,
            "trigram_recall_at_3": self.trigram.at_3,
            "gain_at_1": asdict(self.gain_at_1),
            "gain_at_3": asdict(self.gain_at_3),
            "bytes_per_report": round(self.bytes_per_report, 1),
            "fp32_bytes": self.fp32_bytes,
            "bits_per_parameter": self.bits_per_parameter,
            "cohort_nmse": self.cohort_nmse,
            "parameters": self.parameters,
            "devices": self.devices,
            "held_out_devices": self.held_out_devices,
            "pretrain_s": round(self.pretrain_s, 1),
            "seconds": round(self.seconds, 1),
            "personalisation": None if self.personal is None else self.personal.headline(),
            "curve": curve(self.rounds, self.start_on_sample),
        }


def curve(rounds: Sequence[RoundRow], start: Recall) -> list[dict[str, float]]:
    """Return recall by version, as far as it was measured."""
    points = [(0, start)] + [(row.version, row.recall) for row in rounds if row.recall is not None]
    return [{"version": version, **asdict(recall)} for version, recall in points]

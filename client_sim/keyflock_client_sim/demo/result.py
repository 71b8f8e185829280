"""What the demo found out: a row a round, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from keyflock_client_sim.personalising.figures import Personalisation
from keyflock_models.bootstrap import Comparison

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Recall:
    """How often the next word is among the first k suggestions; unknown words count as misses."""

    at_1: float
    at_3: float


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One committed round."""

    sequence: int
    #: The model version that it made.
    version: int
    #: Reports in the aggregate.
    reports: int
    #: Phones that took work in this round and brought no report that was counted.
    drop_outs: int
    #: On a fixed sample of the held-out phones; None: not evaluated.
    recall: Recall | None
    bytes_per_report: float
    seconds: float

    def with_recall(self, recall: Recall) -> Self:
        """The same round, judged."""
        return replace(self, recall=recall)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The whole run. Recalls are over all held-out phones."""

    rounds: tuple[RoundRow, ...]
    reports_acked: int
    reports_counted: int
    start: Recall
    #: Version 0 on the sample that the rounds are judged on.
    start_at_a_glance: Recall
    end: Recall
    unigram: Recall
    trigram: Recall
    #: Gain in recall@1 over version 0, with its 95 % interval over users.
    gain_at_1: Comparison
    gain_at_3: Comparison
    bytes_per_report: float
    parameters: int
    #: Error of a round's mean delta that compression made; None: not measured.
    cohort_nmse: float | None
    devices: int
    held_out_devices: int
    pretrain_s: float
    seconds: float
    #: Of held-out phones on the last version; None where none has words enough.
    personal: Personalisation | None = None

    @property
    def fp32_bytes(self) -> int:
        """What one uncompressed delta weighs."""
        return self.parameters * FLOAT32_BYTES

    @property
    def bits_per_parameter(self) -> float:
        """What one delta costs on the wire."""
        return 8.0 * self.bytes_per_report / self.parameters

    def summary(self) -> dict[str, object]:
        """All of it as plain values, for one JSON line."""
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
            "curve": curve(self.rounds, self.start_at_a_glance),
        }


def curve(rounds: Sequence[RoundRow], start: Recall) -> list[dict[str, float]]:
    """Recall by version, as far as it was measured."""
    points = [(0, start)] + [(row.version, row.recall) for row in rounds if row.recall is not None]
    return [{"version": version, **asdict(recall)} for version, recall in points]

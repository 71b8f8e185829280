"""The comparison that an ``evaluate`` task asks for, and what of its results ends a task that trains."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import VersionNumber
from keyflock_server.protocol.identifiers import ModelVersion

#: The names in ``keyflock_models.evaluation.paired_scores``.
MetricName = Literal["recall_at_1", "recall_at_3", "mrr_at_10", "ksr", "nll"]
METRIC_NAMES: Final[tuple[MetricName, ...]] = get_args(MetricName)
#: Keystroke savings score every word once for each of its letters, and are asked for by name.
_DEFAULT_METRICS: Final[tuple[MetricName, ...]] = ("recall_at_1", "recall_at_3", "mrr_at_10", "nll")


class Evaluating(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[evaluating]``: the two versions that an ``evaluate`` task's phones score on the same text."""

    #: The version that is judged: a number; ``"candidate"``, the one that is to be released, or the newest
    #: without one; or ``"newest"``. Each round looks it up when it opens.
    candidate: VersionNumber | Literal["candidate", "newest"] = "candidate"
    #: The version that it is compared with: a number, or ``"released"``, the one that keyboards serve.
    baseline: VersionNumber | Literal["released"] = "released"
    #: Minimum number of words that were never trained on; a phone with fewer does not report.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    #: What is measured. ``nll`` is the loss in nats a word, ``ksr`` the share of keystrokes saved; ``ksr``
    #: costs the phone most.
    metrics: Annotated[tuple[MetricName, ...], Meta(min_length=1, max_length=5)] = _DEFAULT_METRICS

    @property
    def ordered_metrics(self) -> tuple[MetricName, ...]:
        """Return the metrics in the order of a report's numbers."""
        return tuple(name for name in METRIC_NAMES if name in self.metrics)

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        """Return the versions that are named by number: both, in the spec of a round that has opened."""
        return tuple(ModelVersion(one) for one in (self.candidate, self.baseline) if isinstance(one, int))


class StopWhen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[stop_when]``: a ``train`` task ends by what ``evaluate`` tasks measure of its population's versions.

    It ends between two rounds, as with ``max_rounds``. Each closed ``evaluate`` round counts as one
    evaluation: the mean over its phones of the candidate's metric. Evaluations from before the task was
    created do not count.
    """

    #: The measure; an ``evaluate`` task of the population must measure it.
    metric: MetricName = "recall_at_3"
    #: End when an evaluation is as good as this: at least, or for ``nll`` at most, this value.
    reaches: float | None = None
    #: End after so many evaluations in a row of which none was better than the best before them.
    no_improvement_for: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    #: An evaluation is better only if it is better by more than this.
    min_delta: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.0

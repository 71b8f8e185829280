"""The models that an assignment needs: its own, and for `evaluate` the one that it is compared with."""

from dataclasses import dataclass

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.plans import ModelWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedModel:
    """One model, as it is named to the server and found on the phone."""

    version: ModelVersion
    #: SHA-256 of the whole download.
    digest: bytes
    #: The digest that a delta must lead to; None: a delta would have to be believed, and is not asked for.
    content_digest: bytes | None
    #: Which weights of the version.
    weights: ModelWeights


def wanted_models(assignment: Assignment) -> tuple[WantedModel, ...]:
    """Return the models that the phone needs before it can work, in the order in which it gets them.

    The baseline comes first: its keyboard may have it, and the candidate is then a small delta to it.
    """
    plan = assignment.personalising or assignment.evaluating
    own = WantedModel(
        version=assignment.model_version,
        digest=assignment.model_digest,
        content_digest=assignment.content_digest,
        weights=ModelWeights.TRAINING if plan is None else plan.weights,
    )
    evaluating = assignment.evaluating
    if evaluating is None or evaluating.baseline_digest == own.digest:
        return (own,)
    baseline = WantedModel(
        version=evaluating.baseline_version,
        digest=evaluating.baseline_digest,
        content_digest=evaluating.baseline_content_digest,
        weights=evaluating.baseline_weights,
    )
    return baseline, own

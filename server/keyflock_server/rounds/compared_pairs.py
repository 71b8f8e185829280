"""Which two versions an ``evaluate`` round compares: no two rounds compare the same two at once."""

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Round


def pair_of(current: Round) -> tuple[PopulationName, tuple[ModelVersion, ...]] | None:
    """Return the population and the two versions that a round compares; None for a round of another kind."""
    spec = current.spec
    return (current.population, spec.comparison.versions) if spec.kind is TaskKind.EVALUATE else None


def is_same_comparison(one: Round, other: Round) -> bool:
    """Return whether both rounds compare the same two versions."""
    return pair_of(one) == pair_of(other) is not None

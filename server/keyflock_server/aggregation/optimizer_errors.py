"""What can be wrong with an optimiser's stored state."""


class CorruptedOptimizerState(ValueError):
    """Fault of the store: the bytes are not a state of this optimiser for this model."""


class OptimizerMismatch(CorruptedOptimizerState):
    """Fault of the operator: the state belongs to another optimiser; a new task begins without a state."""

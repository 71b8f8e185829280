"""The size of a model: three numbers that determine every shape."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The size of a CIFG-LSTM language model.

    The defaults are the published keyboard model: 1,422,250 parameters.

    Source:
        Hard et al. 2018, arXiv:1811.03604, section 3.
    """

    #: Number of words, special tokens included. At least 5: four special tokens and a word.
    vocabulary_size: int = 10_000
    #: Width of a word's vector; also of the recurrent state that passes from step to step.
    embedding_size: int = 96
    #: Number of CIFG units.
    hidden_size: int = 670

    def __post_init__(self) -> None:
        for name, minimum in (("vocabulary_size", 5), ("embedding_size", 1), ("hidden_size", 1)):
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value <= 1_000_000:
                msg = f"{name} is {value!r}: a whole number from {minimum} to 1,000,000 is needed"
                raise ValueError(msg)

    @property
    def parameter_count(self) -> int:
        """The number of parameters, and so the length of the flat vector."""
        v, e, h = self.vocabulary_size, self.embedding_size, self.hidden_size
        return v * e + v + 2 * e * 3 * h + 3 * h + h * e

    @classmethod
    def named(cls, size: str) -> "ModelConfig":
        """Return the configuration of one of the SIZES.

        Raises:
            ValueError: no such size; the message lists those there are.
        """
        if size not in SIZES:
            msg = f"no model size {size!r}; there are {', '.join(SIZES)}"
            raise ValueError(msg)
        return SIZES[size]

    def to_dict(self) -> dict[str, int]:
        """Return the fields as JSON would hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Restore what `to_dict` returned.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            odd = ", ".join(sorted(names.symmetric_difference(values)))
            msg = f"model configuration with missing or unknown fields: {odd}"
            raise ValueError(msg)
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks every type


#: full is the published size; medium has a third of the recurrence, for a machine of two cores; small has
#: half of the words as well, for quick experiments; tiny is for tests.
SIZES: Final = {
    "full": ModelConfig(),
    "medium": ModelConfig(hidden_size=256),
    "small": ModelConfig(vocabulary_size=5_000, embedding_size=64, hidden_size=128),
    "tiny": ModelConfig(vocabulary_size=64, embedding_size=8, hidden_size=12),
}

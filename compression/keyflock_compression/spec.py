"""Which codec, with which settings: chosen by the server, put into each assignment, obeyed by the phone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Literal, Self, get_args

from keyflock_compression.errors import SpecError

CodecName = Literal["deadzone_rows", "deadzone", "topk", "dense", "float32"]
Rounding = Literal["nearest", "stochastic"]
Entropy = Literal["zstd", "none"]

#: Codecs that have a step.
_DEAD_ZONES: Final = ("deadzone_rows", "deadzone")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """One member of the codec family.

    Args:
        codec: ``deadzone_rows`` sparsifies and quantises at once and writes what is not zero by rows;
            ``deadzone`` is the same quantiser with a byte for every value; ``topk`` sends the largest
            values; ``dense`` is int8 for every value; ``float32`` is exact and for reference.
        rounding: ``nearest`` has the smaller error for one client but is biased, so its error does not vanish
            with the cohort; ``stochastic`` is unbiased.
        target_nmse: Dead zones only: the step is searched so that the delta's own NMSE is at most this.
            In (0, 1). Give this or ``step_rms``, or ``budget_bytes`` alone.
        step_rms: Dead zones only: the step in units of the delta's root mean square. In (0, 1000].
        budget_bytes: Dead zones only: the whole container is at most this long. At least 512. Alone, the
            step is the finest that fits; beside another setting, that one's step, if it fits.
        keep_ratio: ``topk`` only, and needed there: the share of the values that is sent. In (0, 1].
        entropy: What the streams go through at the end.
        zstd_level: 1 to 19. Changes the bytes' number, never their meaning.
    Raises:
        SpecError: the message names the field.
    """

    codec: CodecName = "deadzone"
    rounding: Rounding = "nearest"
    target_nmse: float | None = None
    step_rms: float | None = None
    budget_bytes: int | None = None
    keep_ratio: float | None = None
    entropy: Entropy = "zstd"
    zstd_level: int = 3

    def __post_init__(self) -> None:
        _one_of("codec", self.codec, get_args(CodecName))
        _one_of("rounding", self.rounding, get_args(Rounding))
        _one_of("entropy", self.entropy, get_args(Entropy))
        _within("target_nmse", self.target_nmse, 1.0)
        _within("step_rms", self.step_rms, 1000.0)
        _within("keep_ratio", self.keep_ratio, 1.0)
        budget, level = self.budget_bytes, self.zstd_level
        if budget is not None and (type(budget) is not int or not 512 <= budget <= 2**31):
            raise SpecError(f"budget_bytes is {_named(budget)}; a whole number of at least 512 was expected.")
        if type(level) is not int or not 1 <= level <= 19:
            raise SpecError(f"zstd_level is {_named(level)}; a whole number from 1 to 19 was expected.")
        steps = sum(one is not None for one in (self.target_nmse, self.step_rms))
        if self.codec in _DEAD_ZONES and (steps > 1 or (steps == 0 and budget is None)):
            raise SpecError(
                f"{self.codec} needs its step: give target_nmse or step_rms, budget_bytes, or one with it."
            )
        if self.codec not in _DEAD_ZONES and (steps or budget is not None):
            raise SpecError(
                "target_nmse, step_rms and budget_bytes belong to deadzone_rows and deadzone, not "
                f"{self.codec}."
            )

        if (self.codec == "topk") != (self.keep_ratio is not None):
            raise SpecError(f"keep_ratio belongs to topk, which needs it; the codec is {self.codec}.")
        if self.codec == "topk" and self.rounding != "nearest":
            raise SpecError("rounding is 'stochastic'; topk has only nearest.")

    def to_wire(self) -> dict[str, object]:
        """A plain map; settings that are not given are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Self:
        """The spec that a plain map says, strictly.

        Raises:
            SpecError: an unknown field, a wrong type, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = [str(name)[:40] for name in wire if name not in known]
        if unknown:
            raise SpecError(f"unknown codec setting {unknown[0]!r}; there are {', '.join(sorted(known))}.")
        return cls(**wire)  # type: ignore[arg-type]  # checked field by field in __post_init__


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise SpecError(f"{name} is {_named(value)}; one of {', '.join(choices)} was expected.")


def _named(value: object) -> str:
    """The value, or its type where it may be long: the text of an error must not grow with hostile bytes."""
    if isinstance(value, str):
        return repr(value[:40])
    # Beyond a float's range an int would be written digit by digit.
    is_short = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64)
    return repr(value) if is_short else f"of type {type(value).__name__}"


def _within(name: str, value: object, most: float) -> None:
    if value is None:
        return
    # NaN fails the comparison too; a bool is no number here.
    if type(value) not in {int, float} or not 0.0 < value <= most:  # type: ignore[operator]  # a number by now
        raise SpecError(f"{name} is {_named(value)}; a number above 0 and at most {most:g} was expected.")


#: What a task gets when it says nothing: chosen by measurement, docs/decisions/0026.
DEFAULT_SPEC: Final = CodecSpec(codec="deadzone_rows", target_nmse=0.16, zstd_level=1)

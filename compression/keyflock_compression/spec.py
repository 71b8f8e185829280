"""Which codec, with which settings: chosen by the server, put into each assignment, obeyed by the phone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Final, Literal, Self, get_args

from keyflock_compression.errors import SpecError

CodecName = Literal["deadzone_rows", "deadzone", "topk", "randmask", "rowset", "dense", "rotated", "float32"]
Rounding = Literal["nearest", "stochastic"]
Entropy = Literal["zstd", "none"]
Selection = Literal["exact", "sampled"]

#: Codecs that have a step of the delta's own.
_DEAD_ZONES: Final = ("deadzone_rows", "deadzone")
#: Settings that only some codecs have: those which need them, and those which take them.
_NEEDED_BY: Final[MappingProxyType[str, tuple[CodecName, ...]]] = MappingProxyType(
    {
        "keep_ratio": ("topk", "randmask"),
        "bits": ("rowset", "rotated"),
        "step": ("rowset",),
        "row_start": ("rowset",),
        "row_count": ("rowset",),
    }
)
_TAKEN_BY: Final[MappingProxyType[str, tuple[CodecName, ...]]] = MappingProxyType(
    {"bits": ("dense",), "selection": ("topk",)}
)
_BITS: Final[MappingProxyType[CodecName, tuple[int, ...]]] = MappingProxyType(
    {"dense": (8, 4, 2, 1), "rowset": (16, 8, 4, 2), "rotated": (4, 2, 1)}
)
_SEEDED: Final = ("randmask", "rotated")
#: What they leave out or rotate is no matter of rounding.
_NEAREST_ONLY: Final = ("topk", "rotated")
#: One's errors are larger than the delta, so that what is kept would grow; the other has none.
_NO_FEEDBACK: Final = ("randmask", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """One member of the codec family.

    Args:
        codec: ``deadzone_rows`` sparsifies and quantises at once and writes what is not zero by rows;
            ``deadzone`` is the same quantiser with a byte for every value; ``topk`` sends the largest
            values; ``randmask`` sends values that the seed draws; ``rowset`` sends rows that the server
            chose, as whole numbers that can be summed unseen; ``dense`` is a few bits for every value;
            ``rotated`` is a few bits for every value of the rotated delta; ``float32`` is exact and for
            reference.
        rounding: ``nearest`` has the smaller error for one client but is biased, so its error does not vanish
            with the cohort; ``stochastic`` is unbiased.
        target_nmse: Dead zones only: the step is searched so that the delta's own NMSE is at most this.
            In (0, 1). Give this or ``step_rms``, or ``budget_bytes`` alone.
        step_rms: Dead zones only: the step in units of the delta's root mean square. In (0, 1000].
        budget_bytes: Dead zones only: the whole container is at most this long. At least 512. Alone, the
            step is the finest that fits; beside another setting, that one's step, if it fits.
        keep_ratio: ``topk`` and ``randmask`` only, and needed there: the share of the values that is sent.
            In (0, 1].
        bits: Of each value. ``dense``: 8 (also when it is not given), 4, 2 or 1. Needed by ``rowset`` (16, 8,
            4 or 2) and ``rotated`` (4, 2 or 1).
        selection: ``topk`` only: ``exact`` (also when it is not given), or ``sampled``: all values above a
            threshold that a sample of them gives, about as many.
        step: ``rowset`` only, and needed there: the step that all phones share, in units of the parameters.
            In [1e-30, 1000].
        row_start: ``rowset`` only, and needed there: the first vocabulary row that is sent. At least 0.
        row_count: ``rowset`` only, and needed there: how many rows. At least 0.
        feedback_s: Error feedback (``feedback.py``): for so long the phone keeps what a report lost, and adds
            it to its next delta. In (0, 31536000]; left out, never. With nearest rounding, or ``rowset``; not
            with ``randmask``, whose errors are larger than the delta and would grow, nor ``float32``, which
            loses nothing.
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
    bits: int | None = None
    selection: Selection | None = None
    step: float | None = None
    row_start: int | None = None
    row_count: int | None = None
    feedback_s: float | None = None

    def __post_init__(self) -> None:
        _one_of("codec", self.codec, get_args(CodecName))
        _one_of("rounding", self.rounding, get_args(Rounding))
        _one_of("entropy", self.entropy, get_args(Entropy))
        if self.selection is not None:
            _one_of("selection", self.selection, get_args(Selection))
        _within("target_nmse", self.target_nmse, 1.0)
        if self.target_nmse == 1.0:
            raise SpecError("target_nmse is 1, which sending nothing reaches; a number below was expected.")
        _within("step_rms", self.step_rms, 1000.0)
        _within("keep_ratio", self.keep_ratio, 1.0)
        _within("step", self.step, 1000.0, least=1e-30)
        _within("feedback_s", self.feedback_s, 31_536_000.0)
        _whole("budget_bytes", self.budget_bytes, 512, 2**31)
        _whole("row_start", self.row_start, 0, 2**31)
        _whole("row_count", self.row_count, 0, 2**31)
        level = self.zstd_level
        if type(level) is not int or not 1 <= level <= 19:
            raise SpecError(f"zstd_level is {_named(level)}; a whole number from 1 to 19 was expected.")
        self._check_steps()
        self._check_belonging()
        if self.codec in _NEAREST_ONLY and self.rounding != "nearest":
            raise SpecError(f"rounding is 'stochastic'; {self.codec} has only nearest.")
        if self.feedback_s is not None and self.codec in _NO_FEEDBACK:
            raise SpecError(f"feedback_s is of no use with {self.codec}.")
        if self.feedback_s is not None and self.rounding == "stochastic" and self.codec != "rowset":
            raise SpecError("feedback_s needs nearest rounding: chance loses nothing that adds up.")

    def _check_steps(self) -> None:
        steps = sum(one is not None for one in (self.target_nmse, self.step_rms))
        budget = self.budget_bytes
        if self.codec in _DEAD_ZONES and (steps > 1 or (steps == 0 and budget is None)):
            raise SpecError(
                f"{self.codec} needs its step: give target_nmse or step_rms, budget_bytes, or one with it."
            )
        if self.codec not in _DEAD_ZONES and (steps or budget is not None):
            raise SpecError(
                "target_nmse, step_rms and budget_bytes belong to deadzone_rows and deadzone, "
                f"not {self.codec}."
            )

    def _check_belonging(self) -> None:
        """Each codec has the settings that it needs, and none that says nothing to it."""
        for name in ("keep_ratio", "bits", "selection", "step", "row_start", "row_count"):
            needing, taking = _NEEDED_BY.get(name, ()), _TAKEN_BY.get(name, ())
            value = getattr(self, name)
            if value is None and self.codec in needing:
                raise SpecError(f"{self.codec} needs {name}.")
            if value is not None and self.codec not in needing + taking:
                raise SpecError(
                    f"{name} belongs to {', '.join(needing + taking)}; the codec is {self.codec}."
                )
        bits = _BITS.get(self.codec, ())
        if self.bits is not None and (type(self.bits) is not int or self.bits not in bits):
            said = ", ".join(map(str, bits))
            raise SpecError(f"bits is {_named(self.bits)}; for {self.codec} one of {said} was expected.")

    @property
    def has_own_step(self) -> bool:
        """Whether the step is the delta's own: what can be made coarser until a container is short enough."""
        return self.codec in _DEAD_ZONES

    @property
    def sends_seed(self) -> bool:
        """Whether the phone and its server draw alike, so that a container is of one assignment's seed."""
        return self.codec in _SEEDED

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
        unknown = [_named(name) for name in wire if name not in known]
        if unknown:
            raise SpecError(f"unknown codec setting {unknown[0]}; there are {', '.join(sorted(known))}.")
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


def _within(name: str, value: object, most: float, *, least: float = 0.0) -> None:
    if value is None:
        return
    # NaN fails the comparison too; a bool is no number here.
    if type(value) not in {int, float} or not 0.0 < value <= most or value < least:  # type: ignore[operator]  # a number by now
        said = f"of at least {least:g}" if least else "above 0"
        raise SpecError(f"{name} is {_named(value)}; a number {said} and at most {most:g} was expected.")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise SpecError(f"{name} is {_named(value)}; a whole number of at least {least} was expected.")


#: What a task gets when it says nothing: chosen by measurement, docs/decisions/0026.
DEFAULT_SPEC: Final = CodecSpec(codec="deadzone_rows", target_nmse=0.16, zstd_level=1)

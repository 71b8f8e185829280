"""The codec and its settings: the server chooses them and puts them into each assignment; the phone obeys.

On the wire a spec is one flat map: the name of the codec under ``codec``, and that codec's settings.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from keyflock_compression.errors import SpecError

CodecName = Literal["deadzone_rows", "deadzone", "topk", "randmask", "rowset", "dense", "rotated", "float32"]
Rounding = Literal["nearest", "stochastic"]
Entropy = Literal["zstd", "none"]

# An int stays an int on the wire: 1 never becomes 1.0.
_Ratio: TypeAlias = Annotated[int, Meta(ge=1, le=1)] | Annotated[float, Meta(gt=0, le=1)]
_Multiple: TypeAlias = Annotated[int, Meta(ge=1, le=1000)] | Annotated[float, Meta(gt=0, le=1000)]
_Step: TypeAlias = Annotated[int, Meta(ge=1, le=1000)] | Annotated[float, Meta(ge=1e-30, le=1000)]
_Period: TypeAlias = Annotated[int, Meta(ge=1, le=31_536_000)] | Annotated[float, Meta(gt=0, le=31_536_000)]
_Bytes: TypeAlias = Annotated[int, Meta(ge=512, le=2**31)]
_Rows: TypeAlias = Annotated[int, Meta(ge=0, le=2**31)]
_Level: TypeAlias = Annotated[int, Meta(ge=1, le=19)]

#: All settings in their order on the wire.
SETTINGS: Final = (
    *("codec", "rounding", "target_nmse", "step_rms", "budget_bytes", "keep_ratio", "entropy", "zstd_level"),
    *("bits", "selection", "step", "row_start", "row_count", "feedback_s"),
)
_OPTIONAL: Final = frozenset(SETTINGS) - {"codec", "rounding", "entropy", "zstd_level"}


class _Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="codec"):
    """The settings that every codec has.

    Raises:
        SpecError: two settings contradict each other; the message names them.
    """

    #: Whether phone and server both draw from the seed, so that a container belongs to one assignment's seed.
    sends_seed: ClassVar[bool] = False

    #: ``nearest`` has the smaller error for one client but is biased, so its error does not vanish with the
    #: cohort; ``stochastic`` is unbiased.
    rounding: Rounding = "nearest"
    #: The last stage that the streams go through.
    entropy: Entropy = "zstd"
    #: Changes the number of bytes, never their meaning.
    zstd_level: _Level = 3
    #: Error feedback (``feedback.py``): for so long the phone stores what a report lost, and adds it to its
    #: next delta; None: never.
    feedback_s: _Period | None = None

    def __post_init__(self) -> None:
        if self.feedback_s is not None and self.rounding == "stochastic":
            raise SpecError("feedback_s needs nearest rounding: chance loses nothing that adds up.")

    @property
    def codec(self) -> CodecName:
        """The name of the codec."""
        return self.__struct_config__.tag  # type: ignore[return-value]  # each codec's struct has its name

    def to_wire(self) -> dict[str, object]:
        """Return the spec as a plain map, without the settings that are not given."""
        values = ((name, getattr(self, name, None)) for name in SETTINGS)
        return {name: value for name, value in values if value is not None}


class AdaptiveStepSpec(_Settings, frozen=True, kw_only=True):
    """The settings of the dead zones: the step follows from the delta, and can be made coarser until it fits.

    Give ``target_nmse``, ``step_rms`` or ``budget_bytes``, or one of the former with ``budget_bytes``.
    """

    #: The step is searched so that the delta's own NMSE is at most this. Below 1.
    target_nmse: _Ratio | None = None
    #: The step in units of the delta's root mean square.
    step_rms: _Multiple | None = None
    #: Maximum length of the whole container. Alone, the step is the finest that fits; beside another setting,
    #: that one's step, if it fits.
    budget_bytes: _Bytes | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_nmse == 1:
            raise SpecError("target_nmse is 1, which sending nothing reaches; a number below was expected.")
        steps = (self.target_nmse is not None) + (self.step_rms is not None)
        if steps > 1 or (not steps and self.budget_bytes is None):
            raise SpecError(
                f"{self.codec} needs its step: give target_nmse or step_rms, budget_bytes, or one with it."
            )


class DeadzoneRowsSpec(AdaptiveStepSpec, frozen=True, kw_only=True, tag="deadzone_rows"):
    """The codec sparsifies and quantises at once, and writes what is not zero by rows."""


class DeadzoneSpec(AdaptiveStepSpec, frozen=True, kw_only=True, tag="deadzone"):
    """The codec has the quantiser of ``deadzone_rows``, and writes a byte for every value."""


class TopkSpec(_Settings, frozen=True, kw_only=True, tag="topk"):
    """The codec sends the largest values."""

    rounding: Literal["nearest"] = "nearest"
    #: The share of the values that is sent.
    keep_ratio: _Ratio
    #: ``exact`` (also None), or ``sampled``: all values above a threshold that a sample of them gives, which
    #: are about as many.
    selection: Literal["exact", "sampled"] | None = None


class RandmaskSpec(_Settings, frozen=True, kw_only=True, tag="randmask"):
    """The codec sends values that the seed draws; its errors exceed the delta, so feedback would grow."""

    sends_seed: ClassVar[bool] = True

    #: The share of the values that is sent.
    keep_ratio: _Ratio
    feedback_s: None = None


class RowsetSpec(_Settings, frozen=True, kw_only=True, tag="rowset"):
    """The codec sends rows that the server chose, as whole numbers that can be summed unseen."""

    #: Bits per value.
    bits: Literal[16, 8, 4, 2]
    #: The step that all phones share, in units of the parameters.
    step: _Step
    #: The first vocabulary row that is sent.
    row_start: _Rows
    row_count: _Rows

    def __post_init__(self) -> None:
        """Accept feedback with stochastic rounding too: values beyond the largest number are lost."""


class DenseSpec(_Settings, frozen=True, kw_only=True, tag="dense"):
    """The codec sends a few bits for every value."""

    #: Bits per value; None is 8.
    bits: Literal[8, 4, 2, 1] | None = None


class RotatedSpec(_Settings, frozen=True, kw_only=True, tag="rotated"):
    """The codec sends a few bits for every value of the rotated delta."""

    sends_seed: ClassVar[bool] = True

    rounding: Literal["nearest"] = "nearest"
    #: Bits per value.
    bits: Literal[4, 2, 1]


class Float32Spec(_Settings, frozen=True, kw_only=True, tag="float32"):
    """The codec sends every value exactly, for reference; it loses nothing that feedback could add."""

    feedback_s: None = None


CodecSpec: TypeAlias = (
    DeadzoneRowsSpec
    | DeadzoneSpec
    | TopkSpec
    | RandmaskSpec
    | RowsetSpec
    | RotatedSpec
    | DenseSpec
    | Float32Spec
)
#: What a task gets when it says nothing: chosen by measurement, docs/decisions/0026.
DEFAULT_SPEC: Final = DeadzoneRowsSpec(target_nmse=0.16, zstd_level=1)
_KINDS: Final = {kind.__struct_config__.tag: kind for kind in get_args(CodecSpec)}


def parse_spec(wire: Mapping[str, object]) -> CodecSpec:
    """Return the spec that a plain map holds; a map without a codec is of ``deadzone``.

    Raises:
        SpecError: an unknown setting, a wrong type, or a value out of range; the message names the setting.
    """
    codec = wire.get("codec", "deadzone")
    kind = _KINDS.get(codec) if isinstance(codec, str) else None
    if kind is None:
        raise SpecError(f"codec is {_named(codec)}; one of {', '.join(get_args(CodecName))} was expected.")
    # None says that a setting is not given, as far as it can be left out.
    given = {name: value for name, value in wire.items() if value is not None or name not in _OPTIONAL}
    try:
        spec: CodecSpec = msgspec.convert({**given, "codec": codec}, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        # A contradiction between settings has its message; otherwise one setting is wrong.
        message = str(error.__cause__) if isinstance(error.__cause__, SpecError) else _problem(given, kind)
        raise SpecError(message) from None
    return spec


def _problem(given: Mapping[str, object], kind: type[_Settings]) -> str:
    """Return what is wrong with one of the settings, or with their choice."""
    codec = kind.__struct_config__.tag
    for name in given:
        if name not in SETTINGS:
            return f"unknown codec setting {_named(name)}; there are {', '.join(sorted(SETTINGS))}."
        if name not in {"codec", *kind.__struct_fields__}:
            if name in AdaptiveStepSpec.__struct_fields__:
                steps = "target_nmse, step_rms and budget_bytes belong to deadzone_rows and deadzone"
                return f"{steps}, not {codec}."
            owners = [tag for tag, one in _KINDS.items() if name in one.__struct_fields__]
            return f"{name} belongs to {', '.join(owners)}; the codec is {codec}."
    for setting in msgspec.structs.fields(kind):
        name = setting.name
        if setting.required and name not in given:
            return f"{codec} needs {name}."
        if setting.type is type(None) and name in given:
            return f"{name} is of no use with {codec}."
        try:
            msgspec.convert(given.get(name, setting.default), setting.type)
        except (msgspec.ValidationError, UnicodeError):
            return f"{name} is {_named(given[name])}; {_expected(setting.type, codec)}."
    return f"the settings {sorted(given)} do not go together with {codec}."


def _expected(kind: object, codec: object) -> str:
    """Return what a setting of this type must be."""
    parts = (kind, *get_args(kind))
    for choices in (get_args(part) for part in parts if get_origin(part) is Literal):
        if len(choices) == 1:
            return f"{codec} has only {choices[0]}"
        for_codec = "" if isinstance(choices[0], str) else f"for {codec} "
        return f"{for_codec}one of {', '.join(map(str, choices))} was expected"
    # The last part is the float, where the setting takes both.
    number, bounds = [get_args(part) for part in parts if get_origin(part) is Annotated][-1]
    low = "above 0" if bounds.ge is None else f"of at least {bounds.ge:g}"
    name = "number" if number is float else "whole number"
    return f"a {name} {low} and at most {bounds.le:.10g} was expected"


def _named(value: object) -> str:
    """Return the value, or its type where it may be long: hostile bytes must not make an error long."""
    if isinstance(value, str):
        return repr(value[:40])
    # Beyond a float's range an int would be written digit by digit.
    is_short = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64)
    return repr(value) if is_short else f"of type {type(value).__name__}"

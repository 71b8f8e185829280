"""What ``keyflock-sim compression`` was asked for, and how an arm is written: ``CODEC FIELD=VALUE ...``."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from keyflock_client_sim.demo.options import MIN_GOAL
from keyflock_compression import DEFAULT_SPEC, CodecSpec, SpecError

#: What every other arm is compared with: each delta as it is.
FLOAT32: Final = CodecSpec(codec="float32", entropy="none")
DEFAULT: Final = "default"
#: Fields that an arm leaves out are as here; of other codecs, as `CodecSpec` has them.
_BASES: Final = {spec.codec: spec for spec in (DEFAULT_SPEC, FLOAT32)}
#: Of a dead zone; giving one of them takes back the others.
_STEPS: Final = ("target_nmse", "step_rms", "budget_bytes")


class CompressionError(RuntimeError):
    """The comparison cannot be made as asked; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionOptions:
    """See the command's help."""

    data: str = "shakespeare"
    pretrain: str = "builtin"
    size: str = "small"
    #: Beside `FLOAT32`, in the order of tables and pictures.
    arms: tuple[CodecSpec, ...] = (
        DEFAULT_SPEC,
        replace(DEFAULT_SPEC, target_nmse=0.3),
        replace(DEFAULT_SPEC, target_nmse=0.5),
    )
    rounds: int = 30
    #: Reports a round.
    goal: int = 30
    #: Runs of each arm.
    seeds: int = 3
    #: Rounds from one evaluation to the next; the last version is evaluated in any case.
    every: int = 5
    #: Users with fewer words are left out.
    min_words: int = 100
    #: Of a phone; of a held-out user's words, the first so many are asked.
    max_words: int = 2_000
    #: Over the text that version 0 reads; no limit of time, so that it is the same on every machine.
    pretrain_epochs: float = 1.0
    #: Decides who is held out, and the first run.
    seed: int = 0
    #: Make runs anew that are kept.
    is_fresh: bool = False
    picture: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what has no end or no meaning.

        Raises:
            CompressionError: the message names the option.
        """
        for name, least in (("rounds", 1), ("goal", MIN_GOAL), ("seeds", 1), ("every", 1)):
            if getattr(self, name) < least:
                raise CompressionError(f"--{name} is {getattr(self, name)}; at least {least} is needed")


def arm_of(text: str) -> CodecSpec:
    """The spec that an arm says: ``default``, or a codec and its fields.

    Raises:
        CompressionError: it says none.
    """
    codec, *given = text.split() or [""]
    if codec == DEFAULT:
        if given:
            raise CompressionError(f"{text!r}: default has no fields; name the codec {DEFAULT_SPEC.codec}")
        return DEFAULT_SPEC
    wire = next((base.to_wire() for base in _BASES.values() if base.codec == codec), {"codec": codec})
    said = dict(_field(text, one) for one in given)
    if any(step in said for step in _STEPS):
        wire = {name: value for name, value in wire.items() if name not in _STEPS}
    try:
        return CodecSpec.from_wire(wire | said)
    except SpecError as error:
        raise CompressionError(f"{text!r}: {error}") from None


def name_of(spec: CodecSpec) -> str:
    """What `arm_of` reads as this spec."""
    if spec == DEFAULT_SPEC:
        return DEFAULT
    base = _BASES.get(spec.codec)
    usual = base.to_wire() if base else {field.name: field.default for field in fields(CodecSpec)}
    wire = spec.to_wire()
    has_usual_step = all(wire.get(step) == usual.get(step) for step in _STEPS)
    said = {
        name: value
        for name, value in wire.items()
        if name != "codec" and (usual.get(name) != value or (name in _STEPS and not has_usual_step))
    }
    return " ".join([spec.codec, *(f"{name}={value}" for name, value in said.items())])


def _field(text: str, one: str) -> tuple[str, object]:
    name, equals, value = one.partition("=")
    if not equals:
        raise CompressionError(f"{text!r}: {one!r} is no FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

"""The options of ``keyflock-sim compression``, and the syntax of an arm: ``CODEC FIELD=VALUE ...``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import fields

from keyflock_client_sim.training_setup.options import MIN_GOAL
from keyflock_compression import DEFAULT_SPEC, CodecSpec, Float32Spec, SpecError, parse_spec

#: The baseline of every other arm: deltas without compression.
FLOAT32: Final = Float32Spec(entropy="none")
DEFAULT: Final = "default"
#: The specs that give the fields that an arm leaves out; other codecs have the defaults of their struct.
_BASES: Final = {spec.codec: spec for spec in (DEFAULT_SPEC, FLOAT32)}
#: Alternative fields of a dead zone; giving one of them resets the others.
_STEPS: Final = ("target_nmse", "step_rms", "budget_bytes")


class CompressionError(RuntimeError):
    """The comparison cannot be made as asked; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionOptions:
    """The command's options; its help explains them."""

    data: str = "shakespeare"
    pretrain: str = "builtin"
    size: str = "small"
    #: The arms beside `FLOAT32`, in the order of tables and pictures.
    arms: tuple[CodecSpec, ...] = (
        DEFAULT_SPEC,
        msgspec.structs.replace(DEFAULT_SPEC, target_nmse=0.3),
        msgspec.structs.replace(DEFAULT_SPEC, target_nmse=0.5),
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
    #: The maximum words of a phone; of a held-out user, the first so many words are evaluated.
    max_words: int = 2_000
    #: Passes over the text of version 0; no limit of time, so that it is the same on every machine.
    pretrain_epochs: float = 1.0
    #: Decides who is held out, and the first run.
    seed: int = 0
    #: Whether to ignore cached results.
    is_fresh: bool = False
    picture: Path | None = None

    def __post_init__(self) -> None:
        """Refuse options that cannot work.

        Raises:
            CompressionError: the message names the option.
        """
        for name, minimum in (("rounds", 1), ("goal", MIN_GOAL), ("seeds", 1), ("every", 1)):
            if getattr(self, name) < minimum:
                raise CompressionError(f"--{name} is {getattr(self, name)}; at least {minimum} is needed")


def parse_arm(text: str) -> CodecSpec:
    """Parse an arm: ``default``, or a codec and its fields.

    Raises:
        CompressionError: the text is no arm.
    """
    codec, *given = text.split() or [""]
    if codec == DEFAULT:
        if given:
            raise CompressionError(f"{text!r}: default has no fields; name the codec {DEFAULT_SPEC.codec}")
        return DEFAULT_SPEC
    wire = next((base.to_wire() for base in _BASES.values() if base.codec == codec), {"codec": codec})
    given_fields = dict(_field(text, one) for one in given)
    if any(step in given_fields for step in _STEPS):
        wire = {name: value for name, value in wire.items() if name not in _STEPS}
    try:
        return parse_spec(wire | given_fields)
    except SpecError as error:
        raise CompressionError(f"{text!r}: {error}") from None


def arm_name(spec: CodecSpec) -> str:
    """Return the text that `parse_arm` reads as this spec."""
    if spec == DEFAULT_SPEC:
        return DEFAULT
    base = _BASES.get(spec.codec)
    usual = base.to_wire() if base else {one.name: one.default for one in fields(type(spec))}
    wire = spec.to_wire()
    has_usual_step = all(wire.get(step) == usual.get(step) for step in _STEPS)
    shown_fields = {
        name: value
        for name, value in wire.items()
        if name != "codec" and (usual.get(name) != value or (name in _STEPS and not has_usual_step))
    }
    return " ".join([spec.codec, *(f"{name}={value}" for name, value in shown_fields.items())])


def _field(text: str, one: str) -> tuple[str, object]:
    name, equals, value = one.partition("=")
    if not equals:
        raise CompressionError(f"{text!r}: {one!r} is no FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

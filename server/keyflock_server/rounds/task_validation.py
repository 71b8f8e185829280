"""Validation of tasks: an operator's TOML becomes a ``TaskSpec``, or is refused with the field's name."""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from keyflock_compression import CodecError, Float32Spec, parse_spec
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.plans import DeviceRules, HeadPlan
from keyflock_server.protocol.wire import without_values
from keyflock_server.rounds.cohort import CohortSyntaxError, parse_cohort
from keyflock_server.rounds.task import (
    COMMON_DEFAULTS,
    MIN_FLUSH_CLIENTS,
    OPTIMIZER_DEFAULTS,
    Aggregation,
    AutoTuning,
    RoundPolicy,
    ScheduleName,
    TaskSpec,
)

#: The codec of evidence: exact, because evidence is small, and of one size for all phones.
_EVIDENCE_CODEC: Final = Float32Spec(entropy="none")


#: The position at which tomllib stopped.
_PLACE_IN_TOML: Final = re.compile(r"\((at line \d+, column \d+|at end of document)\)")


#: A misspelt field name: a short word of small letters, which no secret is.
_MISSPELT: Final = re.compile(r"Object contains unknown field `([a-z_]{1,24})`")


class TaskError(ValueError):
    """Fault of the operator: the task cannot be run as written; the message names the field."""


#: All phones' evidence weighs the same. Its components are bounded, so its norm needs no bound.
_EVIDENCE_AGGREGATION: Final = Aggregation(weighting="uniform", max_norm_ratio=0.0, clip_norm_ratio=0.0)


#: The required and the optional fields of each schedule, beside ``warmup_rounds``.
SCHEDULE_FIELDS: Final[dict[ScheduleName, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "constant": ((), ()),
    "cosine": (("decay_rounds",), ("final_ratio",)),
    "exponential": (("decay_rounds", "decay_ratio"), ("final_ratio",)),
}


#: Tables that a task of this kind does not use; they are refused, because they would be ignored silently.
FOREIGN_TABLES: Final[dict[TaskKind, tuple[str, ...]]] = {
    TaskKind.TRAIN: ("personalising",),
    TaskKind.PERSONALIZE: (
        *("training", "codec", "codec_by_network", "aggregation", "optimizer", "release", "checks"),
    ),
}


def parse_task(toml_text: str) -> TaskSpec:
    """Parse and validate the task that an operator wrote.

    Raises:
        TaskError: the text is not TOML (with line and column), has an unknown or ill-typed field (with its
            path), or fields that contradict each other.
    """
    try:
        spec = msgspec.toml.decode(toml_text, type=TaskSpec)
    except msgspec.ValidationError as error:
        what = _MISSPELT.sub(r"unknown field `\1`", str(error))
        raise TaskError(f"{_with_toml_path(without_values(what))}.") from None
    except msgspec.DecodeError as error:
        # The parser's own message quotes keys.
        place = _PLACE_IN_TOML.search(str(error))
        raise TaskError(f"The task is not TOML{f', {place[1]}' if place else ''}.") from None
    except RecursionError:
        raise TaskError("The task is not TOML that anyone wrote: it is nested too deeply.") from None
    _check_tables(spec.kind, msgspec.toml.decode(toml_text))
    if spec.kind is TaskKind.PERSONALIZE:
        spec = msgspec.structs.replace(
            spec, codec=_EVIDENCE_CODEC.to_wire(), aggregation=_EVIDENCE_AGGREGATION
        )
    return validated(spec)


def validated(spec: TaskSpec) -> TaskSpec:
    """Return ``spec`` if its fields fit each other.

    Raises:
        TaskError: the fields do not fit; the message names them and says what to do.
    """
    rounds, rules = spec.round, spec.eligibility
    for path in _non_finite_paths(msgspec.to_builtins(spec), ""):
        raise TaskError(
            f"{path} is not finite, and could not be stored. Leave the field out, or give a number."
        )
    if not rounds.is_async and (rounds.concurrency, rounds.max_staleness) != (UNSET, UNSET):
        raise TaskError(
            'round.concurrency and round.max_staleness mean nothing unless round.mode is "async".'
        )
    if rounds.is_async and spec.kind is not TaskKind.TRAIN:
        raise TaskError(f"round.mode: a task of kind {spec.kind} is synchronous; leave the mode out.")
    if rounds.is_async and rounds.slots < rounds.goal:
        raise TaskError(
            f"round.concurrency {rounds.slots} is below round.goal {rounds.goal}: the buffer would wait for "
            "phones that are not asked. Raise it."
        )
    if rounds.is_unsafe_flush and not rounds.unsafe_single_flush:
        raise TaskError(
            f"round.min_flush_clients {rounds.min_flush_clients} is below {MIN_FLUSH_CLIENTS}: stored sums "
            "would be of so few phones that one phone's update can be read out of them. Leave it out, or "
            "say round.unsafe_single_flush = true if no person's text is at stake."
        )
    if rounds.min_flush_clients > rounds.goal:
        raise TaskError(
            f"round.goal {rounds.goal} is below round.min_flush_clients {rounds.min_flush_clients}: a disk "
            "would hold the update of so few phones. Raise the goal."
        )
    if rounds.minimum_reports > rounds.goal:
        raise TaskError(f"round.minimum is {rounds.minimum_reports}, more than round.goal {rounds.goal}.")
    if rounds.min_flush_clients > rounds.minimum_reports:
        raise TaskError(
            f"round.minimum {rounds.minimum_reports} is below round.min_flush_clients "
            f"{rounds.min_flush_clients}: a round could never end with so few."
        )
    if rules.app_build_max is not None and rules.app_build_max < rules.app_build_min:
        raise TaskError("eligibility.app_build_max is below eligibility.app_build_min: no phone would fit.")
    if spec.pacing.max_s < spec.pacing.min_s:
        raise TaskError("pacing.max_s is below pacing.min_s.")
    _check_cohort(rules.cohort)
    _check_auto(rounds)
    _check_codecs(spec)
    _check_optimizer(spec)
    if spec.quarantine.max_duration_s < spec.quarantine.duration_s:
        raise TaskError("quarantine.max_duration_s is below quarantine.duration_s.")
    return spec


def _check_codecs(spec: TaskSpec) -> None:
    for path, codec in spec.codecs.items():
        try:
            parse_spec(codec)
        except CodecError as error:
            raise TaskError(f"{path}: {error}") from None


def _check_optimizer(spec: TaskSpec) -> None:
    allowed = OPTIMIZER_DEFAULTS[spec.optimizer.name] | COMMON_DEFAULTS
    foreign = sorted(set(spec.optimizer_parameters) - set(allowed))
    if foreign:
        raise TaskError(
            f"optimizer.{foreign[0]} is no parameter of {spec.optimizer.name}; it has {', '.join(allowed)}."
        )
    schedule = spec.optimizer.schedule
    needed, optional = SCHEDULE_FIELDS[schedule.name]
    for field in ("decay_rounds", "decay_ratio", "final_ratio"):
        is_given = getattr(schedule, field) is not UNSET
        if is_given and field not in (*needed, *optional):
            raise TaskError(f"optimizer.schedule.{field} means nothing to the schedule {schedule.name}.")
        if not is_given and field in needed:
            raise TaskError(f"The schedule {schedule.name} needs optimizer.schedule.{field}.")


def _check_cohort(text: str) -> None:
    if text:
        try:
            parse_cohort(text)
        except CohortSyntaxError as error:
            raise TaskError(f"eligibility.cohort: {error}") from None


def _check_auto(rounds: RoundPolicy) -> None:
    for name in AutoTuning.__struct_fields__ if rounds.auto is not None else ():
        limits, start = getattr(rounds.auto, name), getattr(rounds, name)
        if limits is not None and not limits[0] <= start <= limits[1]:
            raise TaskError(
                f"round.auto.{name} is [{limits[0]:g}, {limits[1]:g}] and round.{name}, where it begins, is "
                f"{start:g}: give [least, most] around it."
            )


def _check_tables(kind: TaskKind, tables: dict[str, Any]) -> None:
    foreign = [name for name in FOREIGN_TABLES[kind] if name in tables]
    if foreign:
        raise TaskError(f"[{foreign[0]}] means nothing to a task of kind {kind}; leave it out.")
    # The wire types ignore unknown fields; an operator's misspelling must not be ignored.
    for at, head in enumerate(tables.get("personalising", {}).get("heads", ())):
        _check_fields(f"personalising.heads[{at}]", head, HeadPlan)
    _check_fields("eligibility.device", tables.get("eligibility", {}).get("device", {}), DeviceRules)


def _check_fields(path: str, table: dict[str, Any], kind: type[Struct]) -> None:
    unknown = sorted(set(table) - set(kind.__struct_fields__))
    if unknown:
        raise TaskError(
            f"{path}: there is a field that is not known; there are {', '.join(kind.__struct_fields__)}."
        )


def _with_toml_path(message: str) -> str:
    """Return msgspec's message with the path in TOML's form: `$.round.goal` is round.goal."""
    what, _, path = message.rpartition(" - at `$.")
    return f"{path.rstrip('`')}: {what}" if what else message


def _non_finite_paths(value: object, path: str) -> Iterator[str]:
    """Yield the paths of infinities and NaN, which JSON, in which tasks are stored, does not have."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _non_finite_paths(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from _non_finite_paths(inner, f"{path}[{at}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path

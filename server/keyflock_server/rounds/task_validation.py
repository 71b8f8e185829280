"""Validation of tasks: an operator's TOML becomes a ``TaskSpec``, or is refused with the field's name."""

import copy
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET

from keyflock_compression import Float32Spec
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.cohort import CohortSyntaxError, parse_cohort
from keyflock_server.rounds.task import (
    COMMON_DEFAULTS,
    MIN_FLUSH_CLIENTS,
    OPTIMIZER_DEFAULTS,
    Aggregation,
    AutoTuning,
    ScheduleName,
    TaskSpec,
)
from keyflock_server.rounds.task_fields import FieldProblem, codec_problems, field_problems

#: The codec of evidence: exact, because evidence is small, and of one size for all phones.
_EVIDENCE_CODEC: Final = Float32Spec(entropy="none")


#: The position at which tomllib stopped.
_PLACE_IN_TOML: Final = re.compile(r"\((at line \d+, column \d+|at end of document)\)")
#: Matches the parser's reasons that quote nothing of the text.
_PLAIN_REASON: Final = re.compile(r"[A-Z][A-Za-z/ ]+(?:'(?:=|\]|\]\])'[A-Za-z/ ]*)?")


#: More problems of one file are not listed: the answer must not be long.
MAX_PROBLEMS: Final = 50


class TaskError(ValueError):
    """Fault of the operator: the task cannot be run as written.

    Args:
        problems: Sentences; each names the table and key that it is about.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


#: All phones' evidence weighs the same. Its components are bounded, so its norm needs no bound.
_EVIDENCE_AGGREGATION: Final = Aggregation(weighting="uniform", max_norm_ratio=0.0, clip_norm_ratio=0.0)


#: The required and the optional fields of each schedule, beside ``warmup_rounds``.
SCHEDULE_FIELDS: Final[dict[ScheduleName, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "constant": ((), ()),
    "cosine": (("decay_rounds",), ("final_ratio",)),
    "exponential": (("decay_rounds", "decay_ratio"), ("final_ratio",)),
}


_TABLES_OF_TRAINING: Final = (
    *("training", "codec", "codec_by_network", "aggregation", "optimizer", "release", "checks", "stop_when"),
)
#: Tables that a task of this kind does not use; they are refused, because they would be ignored silently.
FOREIGN_TABLES: Final[dict[TaskKind, tuple[str, ...]]] = {
    TaskKind.TRAIN: ("personalising", "evaluating"),
    TaskKind.PERSONALIZE: (*_TABLES_OF_TRAINING, "evaluating"),
    TaskKind.EVALUATE: (*_TABLES_OF_TRAINING, "personalising"),
}


def parse_task(toml_text: str) -> TaskSpec:
    """Parse and validate the task that an operator wrote in TOML.

    Raises:
        TaskError: the text is not TOML (with line and column), or has fields that are unknown, ill-typed or
            contradict each other: all of them, each with its path.
    """
    try:
        tables = msgspec.toml.decode(toml_text)
    except msgspec.DecodeError as error:
        raise TaskError(f"The task is not TOML{_syntax_problem(str(error))}.") from None
    except RecursionError:
        raise TaskError("The task is not TOML that anyone wrote: it is nested too deeply.") from None
    return parse_tables(tables)


def parse_task_json(text: bytes) -> TaskSpec:
    """Parse and validate the task that a program wrote in JSON, with the same tables and keys as in TOML.

    Raises:
        TaskError: as ``parse_task``.
    """
    try:
        tables = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TaskError("The task is not JSON.") from None
    except RecursionError:
        raise TaskError("The task is not JSON that anyone wrote: it is nested too deeply.") from None
    if not isinstance(tables, dict):
        raise TaskError("The task is not a JSON object of tables.")
    return parse_tables(tables)


def parse_tables(tables: dict[str, Any]) -> TaskSpec:
    """Return the task of these tables; raises TaskError with every problem."""
    try:
        unread = list(islice(field_problems(tables), MAX_PROBLEMS))
        spec = _readable_part(tables, unread)
    except RecursionError:
        raise TaskError("The task is nested too deeply.") from None
    problems = [one.sentence for one in unread]
    if spec is not None:
        if ("task", "kind") not in {one.place for one in unread}:
            problems += _foreign_tables(spec.kind, tables)
        # What a field that cannot be read would contradict is not known.
        meant = [one.meant for one in unread if one.meant]
        problems += (text for text in _contradictions(spec) if not any(_names(text, name) for name in meant))
    if problems or spec is None:
        raise TaskError(*problems)
    if spec.kind is not TaskKind.TRAIN:
        spec = msgspec.structs.replace(
            spec, codec=_EVIDENCE_CODEC.to_wire(), aggregation=_EVIDENCE_AGGREGATION
        )
    return spec


def validated(spec: TaskSpec) -> TaskSpec:
    """Return ``spec`` if its fields fit each other.

    Raises:
        TaskError: the fields do not fit; the message names them and says what to do.
    """
    problems = tuple(_contradictions(spec))
    if problems:
        raise TaskError(*problems)
    return spec


def _syntax_problem(message: str) -> str:
    """Return the parser's reason and place, without the keys that its message may quote."""
    place = _PLACE_IN_TOML.search(message)
    reason = message.partition(" (")[0]
    if reason.startswith(("Cannot ", "Duplicate ")):
        reason = "A key or a table is there twice"
    plain = f": {reason[0].lower()}{reason[1:]}" if _PLAIN_REASON.fullmatch(reason) else ""
    return f"{plain}{f', {place[1]}' if place else ''}"


def _readable_part(tables: dict[str, Any], unread: list[FieldProblem]) -> TaskSpec | None:
    """Return the task without the fields that cannot be read, or None if that is no task.

    Stand-ins that contradict nothing replace the fields that a task must have.
    """
    rest = copy.deepcopy(tables)
    for problem in unread:
        *path, key = problem.place
        inside: Any = rest
        for name in path:
            inside = inside.get(name, {}) if isinstance(inside, dict) else {}
        inside.pop(key, None)
    required: dict[str, dict[str, object]] = {
        "task": {"name": "unread", "population": "unread"},
        "round": {"goal": 100_000},
    }
    if "training" in rest:
        required["training"] = {"learning_rate": 1.0}
    for name, stand_ins in required.items():
        if not isinstance(table := rest.get(name, {}), dict):
            return None  # one of more problems than are listed
        rest[name] = stand_ins | table
    try:
        return msgspec.convert(rest, TaskSpec)
    except msgspec.ValidationError:
        return None


def _names(problem: str, field: str) -> bool:
    return re.search(rf"\b{field}\b", problem) is not None


def _contradictions(spec: TaskSpec) -> Iterator[str]:
    """Yield how the fields of a task do not fit each other."""
    rules = spec.eligibility
    infinite = list(_non_finite_paths(msgspec.to_builtins(spec), ""))
    for path in infinite:
        yield f"{path} is not finite, and could not be stored. Leave the field out, or give a number."
    if infinite:
        return
    yield from _round_contradictions(spec)
    if rules.app_build_max is not None and rules.app_build_max < rules.app_build_min:
        yield "eligibility.app_build_max is below eligibility.app_build_min: no phone would fit."
    if spec.pacing.max_s < spec.pacing.min_s:
        yield "pacing.max_s is below pacing.min_s."
    if rules.cohort:
        try:
            parse_cohort(rules.cohort)
        except CohortSyntaxError as error:
            yield f"eligibility.cohort: {error}"
    for path, codec in spec.codecs.items():
        yield from codec_problems(path, codec)
    yield from _optimizer_contradictions(spec)
    yield from _evaluation_contradictions(spec)
    if spec.quarantine.max_duration_s < spec.quarantine.duration_s:
        yield "quarantine.max_duration_s is below quarantine.duration_s."


def _round_contradictions(spec: TaskSpec) -> Iterator[str]:
    rounds = spec.round
    if not rounds.is_async and (rounds.concurrency, rounds.max_staleness) != (UNSET, UNSET):
        yield 'round.concurrency and round.max_staleness mean nothing unless round.mode is "async".'
    if rounds.is_async and spec.kind is not TaskKind.TRAIN:
        yield f"round.mode: a task of kind {spec.kind} is synchronous; leave the mode out."
    if rounds.is_async and rounds.slots < rounds.goal:
        yield (
            f"round.concurrency {rounds.slots} is below round.goal {rounds.goal}: the buffer would wait for "
            "phones that are not asked. Raise it."
        )
    if rounds.is_unsafe_flush and not rounds.unsafe_single_flush:
        yield (
            f"round.min_flush_clients {rounds.min_flush_clients} is below {MIN_FLUSH_CLIENTS}: stored sums "
            "would be of so few phones that one phone's update can be read out of them. Leave it out, or "
            "say round.unsafe_single_flush = true if no person's text is at stake."
        )
    if rounds.min_flush_clients > rounds.goal:
        yield (
            f"round.goal {rounds.goal} is below round.min_flush_clients {rounds.min_flush_clients}: a disk "
            "would hold the update of so few phones. Raise the goal."
        )
    elif rounds.minimum_reports > rounds.goal:
        yield f"round.minimum is {rounds.minimum_reports}, more than round.goal {rounds.goal}."
    elif rounds.min_flush_clients > rounds.minimum_reports:
        yield (
            f"round.minimum {rounds.minimum_reports} is below round.min_flush_clients "
            f"{rounds.min_flush_clients}: a round could never end with so few."
        )
    for name in AutoTuning.__struct_fields__ if rounds.auto is not None else ():
        limits, start = getattr(rounds.auto, name), getattr(rounds, name)
        if limits is not None and not limits[0] <= start <= limits[1]:
            yield (
                f"round.auto.{name} is [{limits[0]:g}, {limits[1]:g}] and round.{name}, where it begins, is "
                f"{start:g}: give [least, most] around it."
            )


def _optimizer_contradictions(spec: TaskSpec) -> Iterator[str]:
    allowed = OPTIMIZER_DEFAULTS[spec.optimizer.name] | COMMON_DEFAULTS
    for name in sorted(set(spec.optimizer_parameters) - set(allowed)):
        yield f"optimizer.{name} is no parameter of {spec.optimizer.name}; it has {', '.join(allowed)}."
    schedule = spec.optimizer.schedule
    needed, optional = SCHEDULE_FIELDS[schedule.name]
    for field in ("decay_rounds", "decay_ratio", "final_ratio"):
        is_given = getattr(schedule, field) is not UNSET
        if is_given and field not in (*needed, *optional):
            yield f"optimizer.schedule.{field} means nothing to the schedule {schedule.name}."
        if not is_given and field in needed:
            yield f"The schedule {schedule.name} needs optimizer.schedule.{field}."


def _evaluation_contradictions(spec: TaskSpec) -> Iterator[str]:
    comparison, policy = spec.comparison, spec.stop_when
    if comparison.candidate == comparison.baseline:
        yield (
            f"evaluating.candidate and evaluating.baseline are both {comparison.baseline}: name two versions."
        )
    if len(set(comparison.metrics)) < len(comparison.metrics):
        yield "evaluating.metrics names a metric twice."
    if policy is not UNSET and policy.reaches is None and policy.no_improvement_for is None:
        yield "[stop_when] never ends the task: give reaches or no_improvement_for."


def _foreign_tables(kind: TaskKind, tables: dict[str, Any]) -> Iterator[str]:
    for name in FOREIGN_TABLES[kind]:
        if name in tables:
            yield f"[{name}] means nothing to a task of kind {kind}; leave it out."


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

"""A task: what changes the mathematics, written by an operator in TOML and stored with every round.

    [task]         name, population, kind: train or personalize, traffic
    [round]        mode, goal, minimum, over_selection, deadline_s, on_miss, max_rounds, min_flush_clients,
                   unsafe_single_flush
    [round.auto]   within which limits over_selection and deadline_s follow what was observed
    [eligibility]  which phones, in which condition, how often
    [eligibility.device]  what only the phone can check (the protocol's DeviceRules)
    [pacing]       bounds of the return windows
    [training]     how phones train (the protocol's TrainingPlan)
    [codec]        how deltas become bytes (keyflock_compression.CodecSpec)
    [codec_by_network.metered | slow | unmetered]  and how on such a network
    [aggregation]  weights, the clips and the norm bound
    [optimizer]    the server's step, by name, and its learning rate over the rounds
    [release]      what keyboards serve of the versions that are made
    [checks]       what a version must not exceed, or its round is held
    [personalising]  which settings of heads are tried (kind personalize; [training] to [checks] are not its)
    [quarantine]   when a device whose reports are refused is kept out

Ports and paths are Settings; what costs a privacy guarantee is named ``unsafe_single_flush`` today.
"""

import math
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from keyflock_compression import DEFAULT_SPEC, CodecError, CodecSpec
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import (
    DeviceRules,
    Fraction,
    HeadPlan,
    Locale,
    Name,
    Seconds,
    TaskKind,
    TrainingPlan,
)
from keyflock_server.protocol.wire import without_values
from keyflock_server.rounds.checks_policy import ChecksPolicy
from keyflock_server.rounds.cohort import MAX_LENGTH, CohortError, parse_cohort

LongSeconds = Annotated[float, Meta(gt=0.0, le=31_536_000.0)]
LearningRate = Annotated[float, Meta(gt=0.0, le=100.0)]
#: A decay rate; nearer to 1, float32 corrects its bias by a division by zero.
Decay = Annotated[float, Meta(ge=0.0, le=0.99999)]
#: Nearer to 0, float32 divides zero by zero where a delta is zero.
Epsilon = Annotated[float, Meta(ge=1e-10, le=1.0)]
OverSelection = Annotated[float, Meta(ge=0.0, le=10.0)]
DeadlineSeconds = Annotated[float, Meta(gt=0.0, le=604_800.0)]
WeightingName = Literal["capped_examples", "sqrt_examples", "uniform"]
#: ``sync``: a cohort is assigned together and its round has a deadline. ``async``: work is given out all the
#: time, and every ``goal`` reports that come make a version (FedBuff: Nguyen et al. 2022, arXiv:2106.06639).
RoundMode = Literal["sync", "async"]
MissPolicy = Literal["carry", "abandon"]
OptimizerName = Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedamsgrad"]
ScheduleName = Literal["constant", "cosine", "exponential"]
Rounds = Annotated[int, Meta(ge=1, le=10_000_000)]

#: Fewer distinct reports than this in a flush, and two stored sums may tell one phone's update.
MIN_FLUSH_CLIENTS: Final = 4


#: Nguyen et al. 2022 drop nothing; a report from ten versions ago weighs 0.3 and says little.
_STALENESS_LIMIT: Final = 10

#: A phone's evidence: exact, for it is small, and of the same size whatever it says.
_EVIDENCE_CODEC: Final = CodecSpec(codec="float32", entropy="none")


#: Where tomllib stopped.
_PLACE_IN_TOML: Final = re.compile(r"\((at line \d+, column \d+|at end of document)\)")
#: What an operator may have misspelt: a short word of small letters, which no secret is.
_MISSPELT: Final = re.compile(r"Object contains unknown field `([a-z_]{1,24})`")


class TaskError(ValueError):
    """Fault of the operator: the task cannot be run as written; the message names the field."""


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    #: Its last round has closed.
    FINISHED = "finished"


class TaskHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[task]``: what it is called and whom it is for."""

    name: Name
    population: Name
    kind: TaskKind = TaskKind.TRAIN
    #: Share of the population's devices that are offered to this task first, against the other tasks' shares.
    traffic: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 1.0


class AutoTuning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[round.auto]``: what each round takes from the rounds before it, each within [least, most].

    The values in ``[round]`` are those of the first rounds; a field that is left out stays as it is there.
    """

    over_selection: tuple[OverSelection, OverSelection] | None = None
    deadline_s: tuple[DeadlineSeconds, DeadlineSeconds] | None = None


class RoundPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[round]``: how large, how long, how many."""

    mode: RoundMode = "sync"
    #: Reports that close the round; of an asynchronous task, the size of the buffer.
    goal: Annotated[int, Meta(ge=1, le=100_000)]
    #: Devices that train at once; asynchronous tasks only. Left out, the goal and the over-selection.
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    #: Versions that may pass between an assignment and its report; asynchronous tasks only. Left out, 10.
    max_staleness: Annotated[int, Meta(ge=0, le=10_000)] | UnsetType = UNSET
    #: Reports that suffice when the deadline comes; left out, four fifths of the goal.
    minimum: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    #: Share of devices assigned beyond the goal, because some drop out.
    over_selection: OverSelection = 0.3
    #: From the opening of the round to its end, whatever has arrived; of an asynchronous task, from an
    #: assignment to its expiry.
    deadline_s: DeadlineSeconds = 600.0
    #: After so long without enough takers, every eligible device is taken.
    selection_s: Annotated[float, Meta(gt=0.0, le=604_800.0)] | UnsetType = UNSET
    #: What becomes of the reports of a round that missed its minimum: they begin the next round, if the model
    #: has not moved meanwhile, or they are given up.
    on_miss: MissPolicy = "carry"
    #: The task ends after so many closed rounds; left out, never.
    max_rounds: Annotated[int, Meta(ge=1)] | None = None
    #: Distinct reports that are summed before anything is written; those that repeat another's numbers, or
    #: say nearly nothing, do not count towards it. Below 4 only with ``unsafe_single_flush``.
    min_flush_clients: Annotated[int, Meta(ge=1, le=1024)] = MIN_FLUSH_CLIENTS
    #: Whether a stored sum may hold the update of so few phones that it can be told: at 1, of one alone.
    unsafe_single_flush: bool = False
    #: Left out: every round is as written here.
    auto: AutoTuning | None = None

    @property
    def minimum_reports(self) -> int:
        """Reports that suffice at the deadline."""
        if self.minimum is UNSET:
            return max(self.min_flush_clients, math.ceil(0.8 * self.goal))
        return self.minimum

    @property
    def is_unsafe_flush(self) -> bool:
        """Whether a stored sum may hold fewer reports than hide one another."""
        return self.min_flush_clients < MIN_FLUSH_CLIENTS

    @property
    def is_async(self) -> bool:
        """Whether reports count whenever they arrive."""
        return self.mode == "async"

    @property
    def slots(self) -> int:
        """Devices that are assigned in a round, or that train at once."""
        return self.slots_for(0)

    def slots_for(self, carried: int) -> int:
        """Devices that are assigned in a round that begins with so many reports of an earlier one."""
        if self.is_async and self.concurrency is not UNSET:
            return self.concurrency
        # The decimal of 0.3 is a little more than three tenths: 10 * 1.3 must be 13, never 14.
        wanted = max(self.goal - carried, self.min_flush_clients)
        return math.ceil(round(wanted * (1.0 + self.over_selection), 6))

    @property
    def staleness_limit(self) -> int:
        """Versions that may pass between an assignment and its report."""
        if self.max_staleness is not UNSET:
            return self.max_staleness
        return _STALENESS_LIMIT if self.is_async else 0

    @property
    def selection_window_s(self) -> float:
        """How long selection may be choosy."""
        return 0.25 * self.deadline_s if self.selection_s is UNSET else self.selection_s


class Eligibility(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[eligibility]``: rules as data, judged at check-in from what the phone says then.

    Only ``device`` is judged elsewhere: on the phone, which says no more than that it does not fit.
    """

    min_examples: Annotated[int, Meta(ge=0)] = 1
    #: From a device's last contribution to its next assignment.
    min_separation_s: Seconds = 0.0
    app_build_min: Annotated[int, Meta(ge=0)] = 0
    app_build_max: Annotated[int, Meta(ge=0)] | None = None
    #: Empty: any locale. ``en`` admits ``en-US`` too.
    locales: tuple[Locale, ...] = ()
    require_idle: bool = False
    require_charging: bool = False
    require_unmetered: bool = False
    min_battery_ratio: Fraction = 0.0
    max_thermal_status: Annotated[int, Meta(ge=0, le=6)] = 6
    #: Which devices, by their attributes (``rounds.cohort`` has the grammar); empty: all.
    cohort: Annotated[str, Meta(max_length=MAX_LENGTH)] = ""
    #: Reports of one device that this task ever counts; left out, no limit.
    max_participations: Annotated[int, Meta(ge=1)] | None = None
    #: Checked by the phone itself.
    device: DeviceRules = DeviceRules()


class Pacing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[pacing]``: within what bounds phones are told to return."""

    min_s: LongSeconds = 60.0
    max_s: LongSeconds = 86_400.0


class Aggregation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[aggregation]``: what a report weighs, and which are refused."""

    weighting: WeightingName = "capped_examples"
    #: A phone's own claim counts up to here.
    example_cap: Annotated[int, Meta(ge=1)] = 256
    #: A delta longer than this many times the task's norm scale is refused; 0 is no bound.
    max_norm_ratio: Annotated[float, Meta(ge=0.0)] = 100.0
    #: A delta longer than this many times that scale is scaled down to it; 0 is no clip.
    clip_norm_ratio: Annotated[float, Meta(ge=0.0)] = 3.0
    #: A word's row is scaled down to this many times the median norm of the delta's own rows; 0 is no clip.
    row_clip_ratio: Annotated[float, Meta(ge=0.0)] = 0.0
    #: And to this norm, in units of the parameters; 0 is no clip.
    row_clip_norm: Annotated[float, Meta(ge=0.0)] = 0.0


#: Every phone's evidence weighs the same; its places have bounds, so its norm needs none.
_EVIDENCE_AGGREGATION: Final = Aggregation(weighting="uniform", max_norm_ratio=0.0, clip_norm_ratio=0.0)


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[optimizer.schedule]``: the learning rate by steps of this task, as a factor of ``learning_rate``."""

    name: ScheduleName = "constant"
    #: The rate grows evenly over so many steps; the last of them has all of it.
    warmup_rounds: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    #: cosine: steps after the warm-up until the end. exponential: steps for one ``decay_ratio``.
    decay_rounds: Rounds | UnsetType = UNSET
    #: exponential only.
    decay_ratio: Annotated[float, Meta(gt=0.0, lt=1.0)] | UnsetType = UNSET
    #: cosine: where it ends; exponential: what it never goes below. Left out: 0.
    final_ratio: Fraction | UnsetType = UNSET


#: Which fields each schedule needs, and which it may have beside ``warmup_rounds``.
SCHEDULE_FIELDS: Final[dict[ScheduleName, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "constant": ((), ()),
    "cosine": (("decay_rounds",), ("final_ratio",)),
    "exponential": (("decay_rounds", "decay_ratio"), ("final_ratio",)),
}


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[optimizer]``: the server's step on the aggregate; defaults after Reddi et al. 2021."""

    name: OptimizerName = "fedadam"
    #: Left out: 1 for fedavg and fedavgm, 0.01 for the adaptive ones.
    learning_rate: LearningRate | UnsetType = UNSET
    #: fedavgm only.
    momentum: Decay | UnsetType = UNSET
    #: fedadam, fedyogi and fedamsgrad only.
    b1: Decay | UnsetType = UNSET
    b2: Decay | UnsetType = UNSET
    #: The adaptive ones only: added to the root of the second moment.
    eps: Epsilon | UnsetType = UNSET
    #: Share of every weight, times the rate, that a step takes away (decoupled); also of words nobody typed.
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] | UnsetType = UNSET
    schedule: Schedule = Schedule()


class ReleasePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[release]``: what keyboards serve. Training always goes on from the weights as they were stepped."""

    #: Above 0: keyboards serve the exponential moving average of the versions, each older one worth this much
    #: of the next. 0: the newest version itself.
    ema_decay: Annotated[float, Meta(ge=0.0, le=0.9999)] = 0.0


class QuarantinePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[quarantine]``: so many refused reports within so long, one a round; and for how long then."""

    #: 0: nobody is.
    refusals: Annotated[int, Meta(ge=0, le=16)] = 3
    within_s: LongSeconds = 604_800.0
    #: Of a device's first quarantine.
    duration_s: LongSeconds = 259_200.0
    #: Each further one is so many times as long.
    growth: Annotated[float, Meta(ge=1.0, le=10.0)] = 2.0
    max_duration_s: LongSeconds = 7_776_000.0


class CodecByNetwork(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[codec_by_network.NAME]``: another codec for phones on such a network; left out, ``[codec]``."""

    unmetered: dict[str, Any] | None = None
    metered: dict[str, Any] | None = None
    slow: dict[str, Any] | None = None

    def of(self, network: str) -> dict[str, Any] | None:
        """Of this network; None where the task's own is meant."""
        return {"unmetered": self.unmetered, "metered": self.metered, "slow": self.slow}[network]


class Personalising(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[personalising]``: what a ``personalize`` task tries on phones."""

    #: Candidates; each round tries one, in turn.
    heads: Annotated[tuple[HeadPlan, ...], Meta(min_length=1, max_length=16)] = (HeadPlan(),)
    #: A phone with fewer words says nothing.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)] = 200

    def head_of(self, sequence: int) -> HeadPlan:
        """The candidate of the task's round of this number."""
        return self.heads[sequence % len(self.heads)]


#: Tables that say nothing to a task of this kind: given, they would be ignored silently.
FOREIGN_TABLES: Final[dict[TaskKind, tuple[str, ...]]] = {
    TaskKind.TRAIN: ("personalising",),
    TaskKind.PERSONALIZE: (
        *("training", "codec", "codec_by_network", "aggregation", "optimizer", "release", "checks"),
    ),
}

#: Which parameters each optimiser takes, with their defaults.
OPTIMIZER_DEFAULTS: Final[dict[OptimizerName, dict[str, float]]] = {
    "fedavg": {"learning_rate": 1.0},
    "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
    "fedadagrad": {"learning_rate": 0.01, "eps": 1e-3},
    "fedadam": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
    "fedyogi": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
    "fedamsgrad": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
}
#: And what all of them take.
COMMON_DEFAULTS: Final[dict[str, float]] = {"weight_decay": 0.0}


class TaskSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task, whole. Build it with ``parse_task``, which checks what single fields cannot."""

    task: TaskHead
    round: RoundPolicy
    eligibility: Eligibility = Eligibility()
    pacing: Pacing = Pacing()
    training: TrainingPlan = TrainingPlan(learning_rate=10**-0.5)
    codec: dict[str, Any] = msgspec.field(default_factory=DEFAULT_SPEC.to_wire)
    codec_by_network: CodecByNetwork = CodecByNetwork()
    aggregation: Aggregation = Aggregation()
    optimizer: Optimizer = Optimizer()
    personalising: Personalising = Personalising()
    release: ReleasePolicy = ReleasePolicy()
    checks: ChecksPolicy = ChecksPolicy()
    quarantine: QuarantinePolicy = QuarantinePolicy()

    @property
    def kind(self) -> TaskKind:
        """What it wants of phones."""
        return self.task.kind

    @property
    def name(self) -> TaskName:
        """What the operator calls it."""
        return TaskName(self.task.name)

    @property
    def population(self) -> PopulationName:
        """Whom it is for."""
        return PopulationName(self.task.population)

    @property
    def codec_spec(self) -> CodecSpec:
        """``[codec]`` as the codec understands it."""
        return CodecSpec.from_wire(self.codec)

    @property
    def optimizer_parameters(self) -> dict[str, float]:
        """The optimiser's parameters, defaults filled in."""
        given = {
            name: value
            for name in ("learning_rate", "momentum", "b1", "b2", "eps", "weight_decay")
            if (value := getattr(self.optimizer, name)) is not UNSET
        }
        return OPTIMIZER_DEFAULTS[self.optimizer.name] | COMMON_DEFAULTS | given

    @property
    def codecs(self) -> dict[str, dict[str, Any]]:
        """Each codec that a phone may be given, by its table."""
        others = msgspec.structs.asdict(self.codec_by_network)
        given = {f"codec_by_network.{name}": codec for name, codec in others.items() if codec is not None}
        return {"codec": self.codec} | given

    def to_json(self) -> bytes:
        """The form in which it is stored."""
        return msgspec.json.encode(self)


def parse_task(toml_text: str) -> TaskSpec:
    """The task that an operator wrote.

    Raises:
        TaskError: not TOML (with line and column), an unknown or ill-typed field (with its path), or fields
            that contradict each other.
    """
    try:
        spec = msgspec.toml.decode(toml_text, type=TaskSpec)
    except msgspec.ValidationError as error:
        what = _MISSPELT.sub(r"unknown field `\1`", str(error))
        raise TaskError(f"{_in_operators_words(without_values(what))}.") from None
    except msgspec.DecodeError as error:
        # The parser's own words quote keys.
        place = _PLACE_IN_TOML.search(str(error))
        raise TaskError(f"The task is not TOML{f', {place[1]}' if place else ''}.") from None
    except RecursionError:
        raise TaskError("The task is not TOML that anyone wrote: it is nested too deeply.") from None
    _check_tables(spec.kind, msgspec.toml.decode(toml_text))
    if spec.kind is TaskKind.PERSONALIZE:
        spec = msgspec.structs.replace(
            spec, codec=_EVIDENCE_CODEC.to_wire(), aggregation=_EVIDENCE_AGGREGATION
        )
    return checked(spec)


def stored_task(data: bytes) -> TaskSpec:
    """The task that ``to_json`` wrote."""
    return msgspec.json.decode(data, type=TaskSpec)


def checked(spec: TaskSpec) -> TaskSpec:
    """``spec``, if its fields fit each other.

    Raises:
        TaskError: the message names the fields and says what to do.
    """
    rounds, rules = spec.round, spec.eligibility
    for path in _unbounded(msgspec.to_builtins(spec), ""):
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
            CodecSpec.from_wire(codec)
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
        except CohortError as error:
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
    # The wire's own types take unknown fields; an operator's misspelling must not pass for a setting.
    for at, head in enumerate(tables.get("personalising", {}).get("heads", ())):
        _check_fields(f"personalising.heads[{at}]", head, HeadPlan)
    _check_fields("eligibility.device", tables.get("eligibility", {}).get("device", {}), DeviceRules)


def _check_fields(path: str, table: dict[str, Any], kind: type[Struct]) -> None:
    unknown = sorted(set(table) - set(kind.__struct_fields__))
    if unknown:
        raise TaskError(
            f"{path}: there is a field that is not known; there are {', '.join(kind.__struct_fields__)}."
        )


def _in_operators_words(message: str) -> str:
    """The message of msgspec with the path as TOML writes it: `$.round.goal` is round.goal."""
    what, _, path = message.rpartition(" - at `$.")
    return f"{path.rstrip('`')}: {what}" if what else message


def _unbounded(value: object, path: str) -> Iterator[str]:
    """Where there is an infinity or NaN: JSON, in which tasks are stored, has neither."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unbounded(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from _unbounded(inner, f"{path}[{at}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path

"""A task: what changes the mathematics, written by an operator in TOML and stored with every round.

    [task]         name, population, kind: train, personalize or evaluate, traffic
    [round]        mode, goal, minimum, over_selection, deadline_s, on_miss, max_rounds, min_flush_clients,
                   unsafe_single_flush
    [round.auto]   limits within which over_selection and deadline_s follow earlier rounds
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
    [evaluating]   which two versions are compared, and by what (kind evaluate; nor are they its)
    [stop_when]    what must be measured for a task that trains to end
    [quarantine]   when a device whose reports are refused is kept out

Ports and paths are Settings; what costs a privacy guarantee is named ``unsafe_single_flush`` today.
"""

import math
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from keyflock_compression import DEFAULT_SPEC, CodecSpec, parse_spec
from keyflock_server.protocol.fields import Fraction, Locale, Name, Seconds
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.plans import DeviceRules, HeadPlan, TrainingPlan
from keyflock_server.rounds.checks_policy import ChecksPolicy
from keyflock_server.rounds.cohort import MAX_LENGTH
from keyflock_server.rounds.evaluating import Evaluating, StopWhen

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


#: Nguyen et al. 2022 drop nothing; a report from ten versions ago weighs 0.3 and contributes little.
_STALENESS_LIMIT: Final = 10


class TaskStatus(StrEnum):
    """The status of a task."""

    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    #: Its last round has closed.
    FINISHED = "finished"

    @property
    def is_over(self) -> bool:
        """Whether the task opens no more rounds; such a status never changes."""
        return self in {TaskStatus.CANCELLED, TaskStatus.FINISHED}


class TaskHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[task]``: the task's name, population and kind."""

    name: Name
    population: Name
    kind: TaskKind = TaskKind.TRAIN
    #: Share of the population's devices that are offered to this task first, against the other tasks' shares.
    traffic: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 1.0


class AutoTuning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[round.auto]``: values that follow the last rounds, each within [min, max].

    The values in ``[round]`` are those of the first rounds; a field that is left out stays as it is there.
    """

    over_selection: tuple[OverSelection, OverSelection] | None = None
    deadline_s: tuple[DeadlineSeconds, DeadlineSeconds] | None = None


class RoundPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[round]``: the size, duration and number of rounds."""

    mode: RoundMode = "sync"
    #: Number of reports that close the round; the size of an asynchronous task's buffer.
    goal: Annotated[int, Meta(ge=1, le=100_000)]
    #: Devices that train at once; asynchronous tasks only. Left out, the goal and the over-selection.
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    #: Versions that may pass between an assignment and its report; asynchronous tasks only. Left out, 10.
    max_staleness: Annotated[int, Meta(ge=0, le=10_000)] | UnsetType = UNSET
    #: Number of reports that suffice at the deadline; left out, four fifths of the goal.
    minimum: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    #: Share of devices assigned beyond the goal, because some drop out.
    over_selection: OverSelection = 0.3
    #: Time from the opening of the round to its end; in an asynchronous task, from an assignment to its
    #: expiry.
    deadline_s: DeadlineSeconds = 600.0
    #: After this time without enough devices, every eligible device is assigned.
    selection_s: Annotated[float, Meta(gt=0.0, le=604_800.0)] | UnsetType = UNSET
    #: What happens to the reports of a round that missed its minimum: they are carried into the next round,
    #: if the model version is still the same, or they are dropped.
    on_miss: MissPolicy = "carry"
    #: The task ends after so many closed rounds; left out, never.
    max_rounds: Annotated[int, Meta(ge=1)] | None = None
    #: Minimum number of distinct reports in a flush; reports that repeat another's numbers, or are nearly
    #: zero, do not count towards it. None is acknowledged before: phones hear ``report_pending``. Below 4
    #: only with ``unsafe_single_flush``.
    min_flush_clients: Annotated[int, Meta(ge=1, le=1024)] = MIN_FLUSH_CLIENTS
    #: Whether a stored sum may hold so few updates that one phone's can be told: at 1, a single one.
    unsafe_single_flush: bool = False
    #: Left out, every round uses the values above.
    auto: AutoTuning | None = None

    @property
    def minimum_reports(self) -> int:
        """Return the number of reports that suffice at the deadline."""
        if self.minimum is UNSET:
            return max(self.min_flush_clients, math.ceil(0.8 * self.goal))
        return self.minimum

    @property
    def is_unsafe_flush(self) -> bool:
        """Return whether a stored sum may hold too few reports to hide a single one."""
        return self.min_flush_clients < MIN_FLUSH_CLIENTS

    @property
    def is_async(self) -> bool:
        """Return whether the task is asynchronous."""
        return self.mode == "async"

    @property
    def slots(self) -> int:
        """Return the number of devices that a round assigns, or that train at once."""
        return self.slots_for(0)

    def slots_for(self, carried: int) -> int:
        """Return the number of devices that a round with so many carried reports assigns."""
        if self.is_async and self.concurrency is not UNSET:
            return self.concurrency
        return _selected(max(self.goal - carried, self.min_flush_clients), self.over_selection)

    @property
    def staleness_limit(self) -> int:
        """Return how many versions may be published between an assignment and its report."""
        if self.max_staleness is not UNSET:
            return self.max_staleness
        return _STALENESS_LIMIT if self.is_async else 0

    @property
    def selection_window_s(self) -> float:
        """Return how long a round samples devices before it takes every eligible one."""
        return 0.25 * self.deadline_s if self.selection_s is UNSET else self.selection_s


@lru_cache(maxsize=256)
def _selected(wanted: int, over_selection: float) -> int:
    """Return how many devices are assigned for so many wanted reports."""
    # The decimal of 0.3 is a little more than three tenths: 10 * 1.3 must be 13, never 14.
    return math.ceil(round(wanted * (1.0 + over_selection), 6))


class Eligibility(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[eligibility]``: rules that the server checks at check-in against the phone's own statements.

    Only ``device`` is checked elsewhere: on the phone, which answers no more than that it does not fit.
    """

    min_examples: Annotated[int, Meta(ge=0)] = 1
    #: Minimum time from a device's last contribution to its next assignment.
    min_separation_s: Seconds = 0.0
    app_build_min: Annotated[int, Meta(ge=0)] = 0
    app_build_max: Annotated[int, Meta(ge=0)] | None = None
    #: The admitted locales; empty admits any. ``en`` admits ``en-US`` too.
    locales: tuple[Locale, ...] = ()
    require_idle: bool = False
    require_charging: bool = False
    require_unmetered: bool = False
    min_battery_ratio: Fraction = 0.0
    max_thermal_status: Annotated[int, Meta(ge=0, le=6)] = 6
    #: A cohort expression (docs/task_reference.md has the grammar); empty selects all devices.
    cohort: Annotated[str, Meta(max_length=MAX_LENGTH)] = ""
    #: Maximum number of one device's reports that this task counts; left out, no limit.
    max_participations: Annotated[int, Meta(ge=1)] | None = None
    #: Only devices of which no training task has counted a report since then; a round of an ``evaluate`` task
    #: sets it to the time of the older of its two versions.
    not_trained_since: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    #: Rules that the phone itself checks.
    device: DeviceRules = DeviceRules()


class Pacing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[pacing]``: the bounds of return windows."""

    min_s: LongSeconds = 60.0
    max_s: LongSeconds = 86_400.0


class Aggregation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[aggregation]``: the weight of a report, and the bounds of its norm."""

    weighting: WeightingName = "capped_examples"
    #: Maximum number of examples that count; the phone claims the number itself.
    example_cap: Annotated[int, Meta(ge=1)] = 256
    #: A delta longer than this many times the task's norm scale is rejected; 0 is no bound.
    max_norm_ratio: Annotated[float, Meta(ge=0.0)] = 100.0
    #: A delta longer than this many times that scale is scaled down to it; 0 is no clip.
    clip_norm_ratio: Annotated[float, Meta(ge=0.0)] = 3.0
    #: A word's row is scaled down to this many times the median norm of the delta's own rows; 0 is no clip.
    row_clip_ratio: Annotated[float, Meta(ge=0.0)] = 0.0
    #: And to this norm, in units of the parameters; 0 is no clip.
    row_clip_norm: Annotated[float, Meta(ge=0.0)] = 0.0


class LearningRateSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    schedule: LearningRateSchedule = LearningRateSchedule()


class ReleasePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[release]``: the weights that keyboards serve. Training always continues from the stepped weights."""

    #: Above 0: keyboards serve the exponential moving average of the versions, each older one worth this much
    #: of the next. 0: the newest version itself.
    ema_decay: Annotated[float, Meta(ge=0.0, le=0.9999)] = 0.0


class QuarantinePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[quarantine]``: how many rejected reports, one a round, quarantine a device, and for how long."""

    #: Number of rejected reports that quarantine a device; 0 switches it off.
    refusals: Annotated[int, Meta(ge=0, le=16)] = 3
    within_s: LongSeconds = 604_800.0
    #: Duration of a device's first quarantine.
    duration_s: LongSeconds = 259_200.0
    #: Each further quarantine is this many times as long.
    growth: Annotated[float, Meta(ge=1.0, le=10.0)] = 2.0
    max_duration_s: LongSeconds = 7_776_000.0


class CodecByNetwork(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[codec_by_network.NAME]``: the codec for phones on that network; left out, ``[codec]``."""

    unmetered: dict[str, Any] | None = None
    metered: dict[str, Any] | None = None
    slow: dict[str, Any] | None = None

    def for_network(self, network: str) -> dict[str, Any] | None:
        """Return the codec of this network; None means the task's own."""
        return {"unmetered": self.unmetered, "metered": self.metered, "slow": self.slow}[network]


class Personalising(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[personalising]``: the settings that a ``personalize`` task tries on phones."""

    #: The candidates; each round tries one, in turn.
    heads: Annotated[tuple[HeadPlan, ...], Meta(min_length=1, max_length=16)] = (HeadPlan(),)
    #: Minimum number of words; a phone with fewer does not report.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)] = 200

    def head_of(self, sequence: int) -> HeadPlan:
        """Return the candidate of the task's round with this sequence number."""
        return self.heads[sequence % len(self.heads)]


#: The parameters of each optimiser, with their defaults.
OPTIMIZER_DEFAULTS: Final[dict[OptimizerName, dict[str, float]]] = {
    "fedavg": {"learning_rate": 1.0},
    "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
    "fedadagrad": {"learning_rate": 0.01, "eps": 1e-3},
    "fedadam": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
    "fedyogi": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
    "fedamsgrad": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-3},
}
#: The parameters of all optimisers.
COMMON_DEFAULTS: Final[dict[str, float]] = {"weight_decay": 0.0}


class TaskSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The specification of a task. ``parse_task`` builds it and checks how its fields fit together."""

    task: TaskHeader
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
    # Left out where they say nothing, so that servers of the last release can read the tasks that they know.
    evaluating: Evaluating | UnsetType = UNSET
    stop_when: StopWhen | UnsetType = UNSET

    @property
    def kind(self) -> TaskKind:
        """Return the kind of the task."""
        return self.task.kind

    @property
    def comparison(self) -> Evaluating:
        """Return ``[evaluating]`` with its defaults."""
        return Evaluating() if self.evaluating is UNSET else self.evaluating

    @property
    def counts_as_training(self) -> bool:
        """Return whether a counted report is a contribution of its device, and an unsent one a silence."""
        return self.kind is not TaskKind.EVALUATE

    @property
    def name(self) -> TaskName:
        """Return the task's name."""
        return TaskName(self.task.name)

    @property
    def population(self) -> PopulationName:
        """Return the task's population."""
        return PopulationName(self.task.population)

    @property
    def codec_spec(self) -> CodecSpec:
        """Return ``[codec]`` as a ``CodecSpec``."""
        return parse_spec(self.codec)

    @property
    def optimizer_parameters(self) -> dict[str, float]:
        """Return the optimiser's parameters with defaults filled in."""
        given = {
            name: value
            for name in ("learning_rate", "momentum", "b1", "b2", "eps", "weight_decay")
            if (value := getattr(self.optimizer, name)) is not UNSET
        }
        return OPTIMIZER_DEFAULTS[self.optimizer.name] | COMMON_DEFAULTS | given

    @property
    def codecs(self) -> dict[str, dict[str, Any]]:
        """Return all codecs of the task by the names of their tables."""
        others = msgspec.structs.asdict(self.codec_by_network)
        given = {f"codec_by_network.{name}": codec for name, codec in others.items() if codec is not None}
        return {"codec": self.codec} | given

    def to_json(self) -> bytes:
        """Return the task as stored JSON."""
        return msgspec.json.encode(self)

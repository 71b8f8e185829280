"""A task of kind personalize: what it says, what would mean nothing to it, and how its rounds end."""

from datetime import UTC, datetime, timedelta

import pytest

from keyflock_compression import Float32Spec
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import Capabilities, CheckIn, RefusalReason, TaskKind
from keyflock_server.protocol.plans import HeadPlan
from keyflock_server.rounds.eligibility import ineligibility
from keyflock_server.rounds.round import (
    CloseRequested,
    Counted,
    IllegalRoundEvent,
    Merged,
    PartialsDeleted,
    Phase,
    Published,
    Round,
    RoundEvent,
    SlotTaken,
    Stepped,
    Summarised,
    advance,
)
from keyflock_server.rounds.stored_task import stored_task
from keyflock_server.rounds.task import Eligibility, TaskSpec
from keyflock_server.rounds.task_validation import TaskError, parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAIN = '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n'
PERSONALIZE = '[task]\nname = "t"\npopulation = "en"\nkind = "personalize"\n[round]\ngoal = 4\n'


def opened(spec: TaskSpec) -> Round:
    return Round(
        id=RoundId("t-1"),
        task=TaskName("t"),
        population=PopulationName("en"),
        sequence=1,
        base_version=ModelVersion(0),
        spec=spec,
        opened_at=NOW,
        deadline_at=NOW + timedelta(seconds=600),
    )


def merged(spec: TaskSpec) -> Round:
    current = opened(spec)
    events: tuple[RoundEvent, ...] = (*[SlotTaken()] * 4, Counted(4, 4.0), CloseRequested(), Merged())
    for event in events:
        current = advance(current, event, NOW)
    return current


def test_a_short_task_tries_the_default_head_on_phones_with_two_hundred_words() -> None:
    spec = parse_task(PERSONALIZE)

    assert spec.kind is TaskKind.PERSONALIZE
    assert spec.personalising.heads == (HeadPlan(),)
    assert spec.personalising.words_needed == 200
    assert spec.codec_spec == Float32Spec(entropy="none")
    assert spec.aggregation.weighting == "uniform"
    assert stored_task(spec.to_json()) == spec


def test_a_task_without_a_kind_trains() -> None:
    assert parse_task(TRAIN).kind is TaskKind.TRAIN


def test_each_round_tries_the_next_head_in_turn() -> None:
    heads = "".join(f"[[personalising.heads]]\nrank = {rank}\n" for rank in (0, 4, 8))

    settings = parse_task(PERSONALIZE + heads).personalising

    assert [settings.head_of(sequence).rank for sequence in range(1, 7)] == [4, 8, 0, 4, 8, 0]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (PERSONALIZE + "[training]\nlearning_rate = 0.1\n", "[training] means nothing"),
        (PERSONALIZE + "[codec]\ncodec = 'float32'\n", "[codec] means nothing"),
        (PERSONALIZE + "[aggregation]\n", "[aggregation] means nothing"),
        (PERSONALIZE + "[optimizer]\nname = 'fedavg'\n", "[optimizer] means nothing"),
        (TRAIN + "[personalising]\n", "[personalising] means nothing to a task of kind train"),
        (PERSONALIZE.replace("personalize", "guess"), "task.kind"),
        (PERSONALIZE + "[personalising]\nwords_needed = 0\n", "personalising.words_needed"),
        (PERSONALIZE + "[personalising]\nheads = []\n", "personalising.heads"),
        (PERSONALIZE + "[[personalising.heads]]\nrank = 65\n", "personalising.heads[0].rank"),
        (PERSONALIZE + "[[personalising.heads]]\nrnak = 6\n", "personalising.heads[0]: "),
        (PERSONALIZE + "[[personalising.heads]]\nl2 = nan\n", "personalising.heads"),
        (PERSONALIZE + "[personalising]\nheads = 3\n", "personalising.heads"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_with_its_field(toml: str, says: str) -> None:
    with pytest.raises(TaskError) as error:
        parse_task(toml)

    assert says in str(error.value)


def test_only_a_phone_that_knows_the_kind_is_fit_for_it() -> None:
    able = Capabilities(tasks=("train", "personalize"))
    for capabilities, expected in [(Capabilities(), RefusalReason.NOT_ELIGIBLE), (able, None)]:
        message = CheckIn(protocol=1, app_build=1, locale="en", examples=5, capabilities=capabilities)

        finding = ineligibility(Eligibility(), message, None, NOW, TaskKind.PERSONALIZE)

        assert (finding and finding.reason) == expected


def test_a_personalize_round_goes_from_its_summary_to_its_end_without_a_version() -> None:
    summarised = advance(merged(parse_task(PERSONALIZE)), Summarised('{"gain":0.5}'), NOW)
    closed = advance(summarised, PartialsDeleted(), NOW)

    assert (summarised.phase, closed.phase) == (Phase.PUBLISHED, Phase.CLOSED)
    assert (closed.figures_json, closed.result_version) == ('{"gain":0.5}', None)
    assert summarised.is_committed
    assert closed.is_committed
    assert closed.closed_at == NOW


@pytest.mark.parametrize(("toml", "event"), [(TRAIN, Summarised("{}")), (PERSONALIZE, Stepped())])
def test_a_round_never_ends_as_the_other_kind_does(toml: str, event: Summarised | Stepped) -> None:
    current = merged(parse_task(toml))

    with pytest.raises(IllegalRoundEvent, match=f"of kind {current.spec.kind}"):
        advance(current, event, NOW)


def test_a_personalize_round_publishes_no_version() -> None:
    with pytest.raises(IllegalRoundEvent):
        advance(merged(parse_task(PERSONALIZE)), Published(ModelVersion(1)), NOW)

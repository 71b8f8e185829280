"""An evaluate task names two versions and what is measured; its phones have trained neither."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from keyflock_compression import Float32Spec
from keyflock_models.evaluation.paired_scores import METRICS
from keyflock_server.protocol.messages import CheckIn, RefusalReason, TaskKind
from keyflock_server.rounds.eligibility import ineligibility, may_take_slot
from keyflock_server.rounds.evaluating import METRIC_NAMES
from keyflock_server.rounds.stored_task import stored_task
from keyflock_server.rounds.task import Eligibility
from keyflock_server.rounds.task_validation import TaskError, parse_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAIN = '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n'
EVALUATE = '[task]\nname = "t"\npopulation = "en"\nkind = "evaluate"\n[round]\ngoal = 4\n'


def test_a_short_task_compares_the_newest_version_with_the_released_one() -> None:
    spec = parse_task(EVALUATE)

    assert spec.kind is TaskKind.EVALUATE
    assert (spec.comparison.candidate, spec.comparison.baseline) == ("candidate", "released")
    assert spec.comparison.metrics == ("recall_at_1", "recall_at_3", "mrr_at_10", "nll")
    assert spec.comparison.words_needed == 50
    assert spec.codec_spec == Float32Spec(entropy="none")
    assert spec.aggregation.weighting == "uniform"
    assert not spec.counts_as_training
    assert stored_task(spec.to_json()) == spec


def test_versions_may_be_numbers_and_metrics_are_reported_in_one_order() -> None:
    spec = parse_task(
        f'{EVALUATE}[evaluating]\ncandidate = 7\nbaseline = 5\nmetrics = ["nll", "recall_at_3"]\n'
    )

    assert spec.comparison.versions == (7, 5)
    assert spec.comparison.ordered_metrics == ("recall_at_3", "nll")
    assert stored_task(spec.to_json()) == spec


def test_the_names_of_metrics_are_those_that_phones_know() -> None:
    assert tuple(METRICS) == METRIC_NAMES


def test_a_task_that_trains_is_stored_as_the_last_release_reads_it() -> None:
    stored = msgspec.json.decode(parse_task(TRAIN).to_json())

    assert not {"evaluating", "stop_when"} & stored.keys()
    assert "not_trained_since" not in stored["eligibility"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            EVALUATE + "[training]\nlearning_rate = 0.1\n",
            "[training] means nothing to a task of kind evaluate",
        ),
        (EVALUATE + "[codec]\ncodec = 'float32'\n", "[codec] means nothing"),
        (EVALUATE + "[checks]\n", "[checks] means nothing"),
        (EVALUATE + "[release]\n", "[release] means nothing"),
        (EVALUATE + "[personalising]\n", "[personalising] means nothing"),
        (EVALUATE + "[stop_when]\nreaches = 0.5\n", "[stop_when] means nothing"),
        (TRAIN + "[evaluating]\n", "[evaluating] means nothing to a task of kind train"),
        (EVALUATE + "[evaluating]\ncandidate = 'best'\n", "evaluating.candidate"),
        (EVALUATE + "[evaluating]\ncandidate = -1\n", "evaluating.candidate"),
        (EVALUATE + "[evaluating]\nbaseline = 'newest'\n", "evaluating.baseline"),
        (EVALUATE + "[evaluating]\ncandidate = 3\nbaseline = 3\n", "are both 3"),
        (EVALUATE + "[evaluating]\nmetrics = []\n", "evaluating.metrics"),
        (EVALUATE + "[evaluating]\nmetrics = ['perplexity']\n", "evaluating.metrics"),
        (EVALUATE + "[evaluating]\nmetrics = ['nll', 'nll']\n", "names a metric twice"),
        (EVALUATE + "[evaluating]\nwords_needed = 0\n", "evaluating.words_needed"),
        (EVALUATE + "[evaluating]\nbaselin = 0\n", "did you mean baseline"),
        (EVALUATE.replace("goal", 'mode = "async"\ngoal'), "a task of kind evaluate is synchronous"),
        (TRAIN + "[stop_when]\nmetric = 'nll'\n", "[stop_when] never ends the task"),
        (TRAIN + "[stop_when]\nno_improvement_for = 0\n", "stop_when.no_improvement_for"),
        (TRAIN + "[eligibility]\nnot_trained_since = 2026-01-01T00:00:00\n", "not_trained_since"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_with_its_field(toml: str, says: str) -> None:
    with pytest.raises(TaskError) as error:
        parse_task(toml)

    assert says in str(error.value)


@pytest.mark.parametrize(
    ("contributed_at", "is_fit"),
    [(None, True), (NOW, True), (NOW + timedelta(microseconds=1), False)],
    ids=["never", "by then", "since then"],
)
def test_a_device_that_has_trained_since_then_is_left_out(
    contributed_at: datetime | None, *, is_fit: bool
) -> None:
    text = f"{TRAIN}[eligibility]\nnot_trained_since = 2026-01-01T00:00:00Z\n"
    rules = parse_task(text).eligibility
    message = CheckIn(protocol=1, app_build=1, locale="en", examples=5)
    later = NOW + timedelta(days=1)

    found = ineligibility(rules, message, contributed_at, later)

    assert (found is None) is is_fit
    assert found is None or found.reason is RefusalReason.NOT_ELIGIBLE
    assert may_take_slot(rules, contributed_at, None, later) is is_fit
    assert ineligibility(Eligibility(), message, contributed_at, later) is None

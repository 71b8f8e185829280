"""Tasks are read strictly, and say where they are wrong."""

import pytest

from keyflock_server.rounds.stored_task import stored_task
from keyflock_server.rounds.task_validation import TaskError, parse_task, validated

HEAD = '[task]\nname = "t"\npopulation = "en"\n'


def test_a_short_task_has_the_published_defaults() -> None:
    spec = parse_task(HEAD + "[round]\ngoal = 50\n")

    assert spec.round.slots == 65
    assert spec.round.minimum_reports == 40
    assert spec.round.min_flush_clients == 4
    assert spec.training.learning_rate == pytest.approx(0.316, abs=0.001)
    assert (spec.training.epochs, spec.training.batch_size, spec.training.sequence_length) == (1, 16, 20)
    assert spec.optimizer_parameters == {
        "learning_rate": 0.01,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-3,
        "weight_decay": 0.0,
    }
    assert (spec.aggregation.weighting, spec.aggregation.example_cap) == ("capped_examples", 256)
    assert spec.codec_spec.codec == "deadzone_rows"


def test_over_selection_rounds_up_but_not_because_of_binary_fractions() -> None:
    assert parse_task(HEAD + "[round]\ngoal = 10\nover_selection = 0.3\n").round.slots == 13
    assert parse_task(HEAD + "[round]\ngoal = 11\nover_selection = 0.3\n").round.slots == 15


def test_a_task_is_stored_and_read_back_unchanged() -> None:
    text = "[round]\ngoal = 10\nmax_rounds = 3\n[eligibility]\nlocales = ['en', 'de-CH']\n"
    text += "[optimizer]\nname = 'fedavgm'\nmomentum = 0.5\n[codec]\ncodec = 'dense'\n"
    spec = parse_task(HEAD + text)

    assert stored_task(spec.to_json()) == spec
    assert validated(spec) is spec


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("nonsense", "not TOML"),
        (HEAD + '[round]\ngoal = "10"\n', "round.goal: Expected `int`, got `str`"),
        (HEAD + "[round]\ngoal = 10\ngaol = 3\n", "round: unknown field `gaol`"),
        (HEAD, "missing required field `round`"),
        ('[task]\nname = "a b"\npopulation = "en"\n[round]\ngoal = 4\n', "task.name"),
        (HEAD + "[round]\ngoal = 3\n", "round.goal 3 is below round.min_flush_clients 4"),
        (HEAD + "[round]\ngoal = 10\nmin_flush_clients = 3\n", "say round.unsafe_single_flush = true"),
        (HEAD + "[round]\ngoal = 10\nmin_flush_clients = 3\n", "one phone's update can be read out of them"),
        (HEAD + "[round]\ngoal = 10\nminimum = 11\n", "round.minimum is 11, more than round.goal 10"),
        (HEAD + "[round]\ngoal = 10\nminimum = 3\n", "a round could never end with so few"),
        (HEAD + "[round]\ngoal = 10\n[eligibility]\napp_build_min = 5\napp_build_max = 4\n", "app_build_max"),
        (HEAD + "[round]\ngoal = 10\n[pacing]\nmin_s = 10.0\nmax_s = 5.0\n", "pacing.max_s is below"),
        (HEAD + '[round]\ngoal = 10\n[codec]\ncodec = "gzip"\n', "codec: codec is 'gzip'"),
        (
            HEAD + '[round]\ngoal = 10\n[optimizer]\nname = "fedavg"\nb1 = 0.5\n',
            "optimizer.b1 is no parameter",
        ),
        (HEAD + "[round]\ngoal = 10\n[training]\nlearning_rate = -1.0\n", "training.learning_rate"),
        (HEAD + "[round]\ngoal = 10\ndeadline_s = nan\n", "round.deadline_s"),
        (
            HEAD + "[round]\ngoal = 10\n[aggregation]\nmax_norm_ratio = inf\n",
            "aggregation.max_norm_ratio is not",
        ),
        (
            HEAD + "[round]\ngoal = 10\n[training]\nlearning_rate = 0.1\ngradient_clip_norm = inf\n",
            "training.gradient_clip_norm is not finite",
        ),
        (HEAD + "[round]\ngoal = 10\n[optimizer]\nlearning_rate = inf\n", "optimizer.learning_rate"),
        (HEAD + "[round]\ngoal = 10\n[optimizer]\neps = 1e-300\n", "optimizer.eps"),
        (HEAD + "[round]\ngoal = 10\n[optimizer]\nb2 = 0.9999999999\n", "optimizer.b2"),
        (HEAD + "[round]\ngoal = 10\n[codec]\ncodec = " + "[" * 9000 + "]" * 9000, "nested too deeply"),
        ('[task]\nname = "t\\n"\npopulation = "en"\n[round]\ngoal = 4\n', "task.name"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_with_its_field(toml: str, says: str) -> None:
    with pytest.raises(TaskError) as error:
        parse_task(toml)

    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            '[optimizer]\nname = "fedavg"\nmomentum = 0.9',
            "optimizer.momentum is no parameter of fedavg; it has learning_rate, weight_decay.",
        ),
        (
            '[optimizer.schedule]\nname = "constant"\ndecay_rounds = 5',
            "optimizer.schedule.decay_rounds means nothing to the schedule constant.",
        ),
        (
            '[optimizer.schedule]\nname = "cosine"',
            "The schedule cosine needs optimizer.schedule.decay_rounds.",
        ),
        (
            '[optimizer.schedule]\nname = "exponential"\ndecay_rounds = 5',
            "The schedule exponential needs optimizer.schedule.decay_ratio.",
        ),
        ('[optimizer]\nname = "lion"', "optimizer.name: Not one of the values that are taken"),
        ("[release]\nema_decay = 1.0", "release.ema_decay: Expected `float` <= 0.9999"),
        (
            "[quarantine]\nduration_s = 60.0\nmax_duration_s = 30.0",
            "quarantine.max_duration_s is below quarantine.duration_s.",
        ),
    ],
)
def test_foreign_and_missing_parameters_are_named(tables: str, message: str) -> None:
    with pytest.raises(TaskError) as refused:
        parse_task(f'[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n{tables}\n')

    assert str(refused.value).startswith(message)


def test_a_task_with_everything_of_the_door_is_stored_and_read_back() -> None:
    spec = parse_task(
        '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n'
        "[aggregation]\nclip_norm_ratio = 2.0\nrow_clip_ratio = 3.0\nrow_clip_norm = 0.5\n"
        '[optimizer]\nname = "fedamsgrad"\nweight_decay = 1e-4\n'
        '[optimizer.schedule]\nname = "cosine"\nwarmup_rounds = 5\ndecay_rounds = 100\n'
        "[release]\nema_decay = 0.99\n[quarantine]\nrefusals = 5\n"
    )

    assert stored_task(spec.to_json()) == spec


@pytest.mark.fault("D3")
@pytest.mark.parametrize(("min_clients", "is_unsafe"), [(1, True), (3, True), (4, False), (9, False)])
def test_a_flush_of_fewer_than_four_is_asked_for_by_name_and_marked(
    min_clients: int, is_unsafe: bool
) -> None:
    table = f"[round]\ngoal = 10\nmin_flush_clients = {min_clients}\nunsafe_single_flush = true\n"

    assert parse_task(HEAD + table).round.is_unsafe_flush is is_unsafe


@pytest.mark.fault("D3")
def test_the_flag_alone_makes_no_flush_smaller() -> None:
    spec = parse_task(HEAD + "[round]\ngoal = 10\nunsafe_single_flush = true\n")

    assert (spec.round.min_flush_clients, spec.round.is_unsafe_flush) == (4, False)


@pytest.mark.fault("D3")
def test_a_task_that_an_earlier_release_stored_with_a_smaller_flush_is_read_and_marked() -> None:
    stored = parse_task(HEAD + "[round]\ngoal = 10\n").to_json()
    earlier = stored.replace(b'"min_flush_clients":4,"unsafe_single_flush":false', b'"min_flush_clients":1')

    spec = stored_task(earlier)

    assert earlier != stored
    assert (spec.round.min_flush_clients, spec.round.is_unsafe_flush) == (1, True)

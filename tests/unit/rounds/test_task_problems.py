"""All problems of a task file are told at once, each with its table and key, and with what was meant."""

import pytest

from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import MAX_PROBLEMS, TaskError, parse_task

pytestmark = pytest.mark.fault("F14")

HEAD = '[task]\nname = "t"\npopulation = "en"\n'
GOAL = "[round]\ngoal = 10\n"


def problems(toml: str) -> tuple[str, ...]:
    with pytest.raises(TaskError) as refused:
        parse_task(toml)
    return refused.value.problems


def test_every_problem_of_a_file_is_in_one_answer() -> None:
    found = problems(
        HEAD
        + 'goal = 4\n[round]\ngoal = "ten"\nmode = "asink"\n[pacing]\nmin_s = 10.0\nmax_s = 5.0\n'
        + "[training]\nlearning_rate = -1.0\nepochs = 0\n[colours]\nred = 1\n"
    )

    assert found == (
        "task: unknown field `goal`; it belongs to [round].",
        "round.goal: Expected `int`, got `str`.",
        "round.mode: Not one of the values that are taken: sync, async.",
        "training.learning_rate: Expected `float` > 0.0.",
        "training.epochs: Expected `int` >= 1.",
        f"unknown field `colours`; there are {', '.join(TaskSpec.__struct_fields__)}.",
        "pacing.max_s is below pacing.min_s.",
    )


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("goal = 3\n" + HEAD + GOAL, "unknown field `goal`; it belongs to [round]."),
        (
            HEAD + GOAL + "max_norm_ratio = 3.0\n",
            "round: unknown field `max_norm_ratio`; it belongs to [aggre",
        ),
        (HEAD + GOAL + "target_nmse = 0.1\n", "round: unknown field `target_nmse`; it belongs to [codec]."),
        (HEAD + GOAL + "[auto]\n", "unknown field `auto`; it belongs to [round]."),
        (HEAD + GOAL + "[device]\n", "unknown field `device`; it belongs to [eligibility]."),
        (HEAD + GOAL + "[eligibility]\nrequire_opt_in = true\n", "it belongs to [eligibility.device]."),
        (
            HEAD + "[round]\n[round.pacing]\ngoal = 4\n",
            "round: unknown field `pacing`; it belongs at the top",
        ),
        (
            HEAD + GOAL + "[codec]\ncodec = 'dense'\nepochs = 3\n",
            "codec: unknown field `epochs`; it belongs to",
        ),
        (HEAD + GOAL + "rank = 3\n", "it belongs to [personalising.heads]."),
    ],
)
def test_a_misplaced_key_is_told_where_it_belongs(toml: str, says: str) -> None:
    assert says in problems(toml)[0]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (HEAD + "[rounds]\ngoal = 4\n", "unknown field `rounds`; did you mean [round]."),
        (HEAD + GOAL + "gaol = 3\n", "round: unknown field `gaol`; did you mean goal."),
        (HEAD + GOAL + "deadline = 3\n", "round: unknown field `deadline`; did you mean deadline_s."),
        (HEAD + GOAL + "[training]\nlearnin_rate = 1.0\n", "training: unknown field `learnin_rate`; did you"),
        (
            HEAD + GOAL + "[pacing]\nlearnin_rate = 1.0\n",
            "did you mean learning_rate, which belongs to [train",
        ),
        (
            HEAD + GOAL + "[codec]\ncodec = 'topk'\nkeep_ratoi = 0.1\n",
            "codec: unknown field `keep_ratoi`; did",
        ),
        (
            HEAD + GOAL + "[round.auto]\nover_selecton = [0.1, 1.0]\n",
            "round.auto: unknown field `over_selecton`",
        ),
        (HEAD + GOAL + "DeadlineS = 3\n", "did you mean deadline_s."),
    ],
)
def test_a_misspelt_key_is_told_what_was_meant(toml: str, says: str) -> None:
    assert says in problems(toml)[0]


def test_a_misspelt_key_of_training_is_not_overlooked() -> None:
    found = problems(HEAD + GOAL + "[training]\nlearning_rate = 0.1\nepoch = 3\n")

    assert found == ("training: unknown field `epoch`; did you mean epochs.",)


def test_what_follows_from_a_misspelt_key_is_not_told_too() -> None:
    found = problems(HEAD + "[round]\ngoal = 3\nmin_flush_client = 2\n[training]\nlearnin_rate = 0.1\n")

    assert found == (
        "round: unknown field `min_flush_client`; did you mean min_flush_clients.",
        "training: unknown field `learnin_rate`; did you mean learning_rate.",
    )


def test_every_wrong_setting_of_a_codec_is_told() -> None:
    codec = "[codec]\ncodec = 'deadzone_rows'\ntarget_nmse = 5\nzstd_level = 99\n"

    assert problems(HEAD + GOAL + codec) == (
        "codec: zstd_level is 99; a whole number of at least 1 and at most 19 was expected.",
        "codec: target_nmse is 5; a number above 0 and at most 1 was expected.",
    )


def test_contradictions_are_told_together() -> None:
    found = problems(
        HEAD
        + "[round]\ngoal = 3\n[pacing]\nmin_s = 10.0\nmax_s = 5.0\n[optimizer.schedule]\nname = 'cosine'\n"
    )

    assert [text.split()[0] for text in found] == ["round.goal", "pacing.max_s", "The"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "[round\n",
            "The task is not TOML: expected ']' at the end of a table declaration, at line 1, column 7.",
        ),
        (HEAD + "goal 3\n", "expected '=' after a key in a key/value pair, at line 4, column 6"),
        (HEAD + "goal = ten\n", "The task is not TOML: invalid value, at line 4, column 8."),
        (
            HEAD + "name = 'u'\n",
            "The task is not TOML: a key or a table is there twice, at line 4, column 11.",
        ),
    ],
)
def test_a_slip_in_toml_has_its_reason_its_line_and_its_column(toml: str, says: str) -> None:
    assert says in problems(toml)[0]


@pytest.mark.parametrize("key", ["sk_live_51H8", "Hunter2Pass99", '"an own sentence"', "x" * 5_000])
def test_a_key_that_may_be_a_secret_is_not_repeated(key: str) -> None:
    found = problems(HEAD + GOAL + f"{key} = 1\n")

    assert len(found) == 1
    assert found[0].startswith("round: there is a field that is not known; ")
    assert key.strip('"') not in found[0]


def test_a_file_of_nothing_but_problems_has_a_short_answer() -> None:
    assert len(problems("".join(f"key{n} = 1\n" for n in range(10_000)))) == MAX_PROBLEMS


@pytest.mark.parametrize("table", ["task", "round", "training"])
@pytest.mark.parametrize("value", ["3", '"x"', "[1]"])
def test_a_table_that_is_none_behind_the_last_problem_that_is_listed_is_no_failure(
    table: str, value: str
) -> None:
    many = "".join(f"key{n} = 1\n" for n in range(MAX_PROBLEMS))

    assert len(problems(f"{many}{table} = {value}\n")) == MAX_PROBLEMS

import pytest
from typer.testing import CliRunner

from keyflock_load_tests.cli import EXIT_USAGE, app
from keyflock_load_tests.payload import stream_containers
from keyflock_load_tests.scenario import Outage, PhonePlan, Scenario, ScenarioError, ServerPlan, SlowPhones
from keyflock_load_tests.scenarios import SCENARIOS
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout

NAMES = pytest.mark.parametrize("name", SCENARIOS)


@NAMES
def test_a_scenario_says_what_it_asks_in_one_line_and_what_is_good_enough(name: str) -> None:
    scenario = SCENARIOS[name]

    assert scenario.purpose.endswith("?")
    assert "\n" not in scenario.purpose
    assert scenario.goals
    assert all(isinstance(text, str) for text in scenario.parameters().values())


@NAMES
def test_a_scenario_can_be_made_small_and_stays_what_it_is(name: str) -> None:
    scenario: Scenario = SCENARIOS[name]

    small = scenario.scaled(rate_per_s=2.0, duration_s=3.0, devices=20)

    only_stream = not scenario.arrivals.mean_rate_per_s
    scaled = small.stream.per_s if only_stream and small.stream else small.arrivals.mean_rate_per_s
    assert (scaled, small.arrivals.duration_s, small.fleet_size) == (2.0, 3.0, 20)
    assert (small.phones, small.task, small.goals) == (scenario.phones, scenario.task, scenario.goals)
    assert scenario.scaled() == scenario


def test_a_stream_beside_visits_keeps_its_proportion_to_them() -> None:
    soak = SCENARIOS["soak"]
    before, after = soak.stream, soak.scaled(rate_per_s=soak.arrivals.mean_rate_per_s / 4).stream

    assert before is not None
    assert after is not None
    assert before.per_s == 4 * (after.per_s or 0.0)


def test_a_slow_upload_takes_many_times_as_long_as_any_other() -> None:
    scenario = SCENARIOS["slow_uploads"]
    layout = ParamLayout.for_config(ModelConfig.named(scenario.task.model_size))

    delta_bytes = min(map(len, stream_containers(layout, scenario.seed)))

    assert scenario.slow_phones is not None
    assert delta_bytes / scenario.slow_phones.upload_bytes_per_s > 5.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: PhonePlan(hostile_share=1.5),
        lambda: PhonePlan(hostile_hold_s=0.0),
        lambda: SlowPhones(share=0.5, upload_bytes_per_s=0.0),
        lambda: SlowPhones(share=-0.1),
        lambda: Outage(at_ratio=1.0, down_s=1.0),
        lambda: ServerPlan(replicas=0),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(make: type[object]) -> None:
    with pytest.raises(ScenarioError):
        make()


def test_an_unknown_scenario_is_answered_with_the_list_and_what_each_asks() -> None:
    answer = CliRunner().invoke(app, ["no_such_day"])

    assert answer.exit_code == EXIT_USAGE
    for name, scenario in SCENARIOS.items():
        assert name in answer.output
        assert scenario.purpose in answer.output

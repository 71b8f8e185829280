"""A dry run says what a task would do, by the numbers that a real one would go by, and writes nothing."""

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, task_spec

from keyflock_server.protocol.operator.forecasts import MatchingDevices, TaskForecast
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.fill_forecast import fill_forecast
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import TaskError, parse_task, parse_task_json


async def forecast(harness: CoordinatorHarness, spec: TaskSpec) -> TaskForecast:
    return await harness.coordinator.forecasts.forecast(spec)


async def test_a_dry_run_of_a_good_task_says_yes_and_leaves_nothing_behind(
    harness: CoordinatorHarness,
) -> None:
    told = await forecast(harness, task_spec())

    assert (told.is_accepted, told.problems, told.conflicts) == (True, [], [])
    assert await harness.store.tasks.all() == []
    assert await harness.store.tasks.ids_of(task_spec().name) == []
    assert list(harness.coordinator.registry) == []


async def test_what_a_dry_run_refuses_is_refused_at_creation_with_the_same_words(
    harness: CoordinatorHarness,
) -> None:
    await harness.task("taken")
    wrong = [task_spec("taken"), task_spec("other", release="ema_decay = 0.5")]

    for spec in wrong:
        told = await forecast(harness, spec)
        with pytest.raises(ApiError) as refused:
            await harness.coordinator.tasks.create(spec, audit=AUDIT)
        assert not told.is_accepted
        assert told.conflicts == [refused.value.detail]


async def test_a_task_for_a_population_that_is_not_there_conflicts(harness: CoordinatorHarness) -> None:
    spec = parse_task('[task]\nname = "t"\npopulation = "nowhere"\n[round]\ngoal = 10')

    told = await forecast(harness, spec)

    assert (told.is_accepted, told.devices) == (False, None)
    assert len(told.conflicts) == 1


async def test_devices_are_counted_by_what_the_server_knows_of_them(harness: CoordinatorHarness) -> None:
    for tier in (0, 1, 2, 2):
        await harness.enrol(tier)

    told = await forecast(harness, task_spec(eligibility='cohort = "tier >= 2"'))
    too_old = await forecast(harness, task_spec(eligibility="app_build_min = 6"))
    elsewhere = await forecast(harness, task_spec(eligibility='locales = ["de"]'))

    assert told.devices == MatchingDevices(enrolled=4, matching=2, active=0, active_matching=0)
    assert [one.devices.matching for one in (too_old, elsewhere) if one.devices] == [0, 0]


async def test_a_device_that_has_contributed_too_recently_does_not_fit_now(
    harness: CoordinatorHarness,
) -> None:
    await harness.enrol_proven()

    fits = await forecast(harness, task_spec(eligibility="min_separation_s = 3600.0"))
    waits = await forecast(harness, task_spec(eligibility="min_separation_s = 172800.0"))

    assert [one.devices.matching for one in (fits, waits) if one.devices] == [1, 0]


async def test_the_bytes_of_a_round_are_those_of_its_phones(harness: CoordinatorHarness) -> None:
    newest = await harness.coordinator.models.any_version(POPULATION, 0)

    told = await forecast(harness, task_spec(round="goal = 10"))

    assert told.traffic is not None
    (upload,) = told.traffic.uploads
    assert upload.max_bytes is not None
    assert upload.min_bytes <= upload.max_bytes
    assert told.traffic.assigned_phones == 13
    assert told.traffic.download_bytes == newest.download_bytes
    assert told.traffic.round_download_bytes == 13 * newest.download_bytes
    assert told.traffic.round_upload_max_bytes == 13 * upload.max_bytes
    assert told.server is not None
    assert told.server.memory_bytes > 0


async def test_what_cannot_be_known_is_said(harness: CoordinatorHarness) -> None:
    plain = await forecast(harness, task_spec())
    limited = await forecast(harness, task_spec(eligibility="max_participations = 3"))

    assert any("drop out" in one for one in plain.unknown)
    assert [one for one in limited.unknown if one not in plain.unknown] == [
        "How many phones have reached eligibility.max_participations."
    ]


def test_too_few_devices_for_the_minimum_mean_that_no_round_has_a_result() -> None:
    told = fill_forecast(task_spec(round="goal = 10"), 3, 3)

    assert told.slots_taken_s is None
    assert "none would have a result" in told.meaning


def test_the_devices_of_a_small_population_meet() -> None:
    told = fill_forecast(task_spec(round="goal = 10", pacing="min_s = 60.0"), 20, 20)

    assert told.is_meeting
    assert told.slots_taken_s == 75.0


def test_the_devices_of_a_large_population_arrive_in_proportion_and_a_short_deadline_is_told() -> None:
    spec = task_spec(round="goal = 1000\ndeadline_s = 600.0")

    few, many = fill_forecast(spec, 6_000, 6_000), fill_forecast(spec, 600_000, 600_000)

    assert few.slots_taken_s is not None
    assert many.slots_taken_s is not None
    assert not many.is_meeting
    assert many.slots_taken_s <= 600.0


def test_a_task_in_json_is_the_same_task_as_in_toml() -> None:
    in_toml = parse_task('[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 10\ndeadline_s = 60.0')
    in_json = parse_task_json(
        b'{"task": {"name": "t", "population": "en"}, "round": {"goal": 10, "deadline_s": 60}}'
    )

    assert in_json == in_toml


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "JSON"),
        (b'{"task": {"name": "t", "population": "en"}, "round": {"goal": 0}, "x": {}}', "round.goal"),
    ],
)
def test_a_wrong_task_in_json_is_refused_with_what_is_wrong(text: bytes, detail: str) -> None:
    with pytest.raises(TaskError, match=detail):
        parse_task_json(text)

"""A check-in at the edges: whose token, which round, which process, and at which instant."""

from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, task_spec
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_compression.spec import CodecName
from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.task_state import OpenRound
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Capabilities,
    CheckIn,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.availability import hour_of
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.errors import StorageError, Superseded
from keyflock_server.storage.records import DeviceRecord

T, FIRST = TaskName("t"), RoundId("t-1")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


@pytest.fixture
async def replicas(harness: CoordinatorHarness) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """Start two processes, of which the first one leads; the harness's is the first."""
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    yield here, there
    for one in (here, there):
        await one.stop()


async def fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the call would return
    raise StorageError("The disk is full.")


def open_round(harness: CoordinatorHarness) -> OpenRound:
    opened = harness.coordinator.registry._states[T].open_round
    assert opened is not None
    return opened


def refusal(answer: Assignment | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


async def stored(harness: CoordinatorHarness, identity: DeviceIdentity) -> DeviceRecord:
    row = await harness.store.devices.get(identity.device)
    assert row is not None
    return row


async def test_work_of_a_round_that_takes_no_report_any_more_is_not_given_again(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5")
    late = await harness.enrol()
    await harness.assigned(late)
    claims = await cohort(harness, 4)
    before = await harness.check_in(late)
    for one in claims:
        await send(harness, one, 1.0)
    monkeypatch.setattr(harness.blobs, "put", fail)
    await harness.coordinator.tick()  # which can write no aggregate

    answer = await harness.check_in(late)

    assert isinstance(before, Assignment)
    assert open_round(harness).round.phase is Phase.CLOSING
    assert (refusal(answer).reason, refusal(answer).detail) == (
        RefusalReason.TOO_SOON,
        "This round knows the device.",
    )


async def test_an_assignment_is_given_again_until_the_instant_at_which_it_expires(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\ndeadline_s = 600.0")
    device = await harness.enrol()
    first = await harness.check_in(device)
    harness.pass_time(599.0)

    last = await harness.check_in(device)
    harness.pass_time(1.0)
    expired = await harness.check_in(device)

    assert isinstance(first, Assignment)
    assert isinstance(last, Assignment)
    assert (first.expires_in_s, last.expires_in_s, last.id) == (600.0, 1.0, first.id)
    assert refusal(expired).reason is RefusalReason.TOO_SOON


async def test_an_assignment_that_expires_while_it_is_made_has_no_time_left_and_not_less(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4\ndeadline_s = 600.0")
    version = harness.coordinator.models.version

    async def slow(*what: Any) -> Any:  # noqa: ANN401 - handed on as they came
        harness.pass_time(601.0)
        return await version(*what)

    device = await harness.enrol()
    await harness.assigned(device)
    harness.pass_time(-1.0)
    monkeypatch.setattr(harness.coordinator.models, "version", slow)
    answer = await harness.check_in(device)

    assert isinstance(answer, Assignment)
    assert answer.expires_in_s == 0.0


async def test_an_assignment_that_another_process_has_counted_is_not_given_again(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    here, there = replicas
    await harness.task(round="goal = 8")
    await there.tick()
    phones = [await harness.enrol() for _ in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]
    harness.coordinator = there
    for one in claims:
        await send(harness, one, 1.0)

    harness.coordinator = here
    answer = await harness.check_in(phones[0])

    assert refusal(answer).reason is RefusalReason.TOO_SOON
    assert open_round(harness).members[claims[0].assignment].state == "assigned"  # it had not heard of it


async def test_a_device_that_another_process_has_assigned_is_given_the_same_work(
    harness: CoordinatorHarness, replicas: tuple[Coordinator, Coordinator]
) -> None:
    _, there = replicas
    await harness.task(round="goal = 4\nover_selection = 0.0", eligibility="min_examples = 5")
    await there.tick()
    device = await harness.enrol()
    harness.coordinator = there
    told_to_wait = await harness.check_in(device, examples=1)
    harness.coordinator = replicas[0]
    first = await harness.assigned(device)

    harness.coordinator = there
    still_waiting = await harness.check_in(device)
    await there.tick()
    again = await harness.assigned(device)
    harness.coordinator = replicas[0]
    claims = [first, *(await cohort(harness, 3))]
    for one in claims:
        await send(harness, one, 1.0)
    harness.coordinator = there
    done = await harness.check_in(device)

    assert refusal(told_to_wait).reason is RefusalReason.NOT_ELIGIBLE
    assert refusal(still_waiting).detail == refusal(told_to_wait).detail  # for a pass
    assert again.assignment == first.assignment
    assert refusal(done).reason is RefusalReason.TOO_SOON  # what it was told before is over
    assert (await there.tasks.round(FIRST)).assigned == 4


@pytest.mark.parametrize("case", ["another population", "forgotten"])
async def test_a_token_is_void_where_its_device_is_not(harness: CoordinatorHarness, case: str) -> None:
    await harness.create_other_population(PopulationName("de"))
    await harness.task()
    device = await harness.enrol()
    if case == "forgotten":
        await harness.forget(device)
    else:
        device = DeviceIdentity(device.device, PopulationName("de"))

    with pytest.raises(ApiError) as at_check_in:
        await harness.check_in(device)
    with pytest.raises(ApiError) as at_forgetting:
        await harness.coordinator.erasure.targets(device)

    assert at_check_in.value.code is at_forgetting.value.code is ProblemCode.TOKEN_INVALID


async def check_in_with(harness: CoordinatorHarness, identity: DeviceIdentity, **fields: Any) -> None:  # noqa: ANN401 - fields of the message
    can = Capabilities(codecs=get_args(CodecName))
    message: dict[str, Any] = {"app_build": 5, "locale": "en-US", "examples": 10} | fields
    await harness.coordinator.check_ins.check_in(identity, CheckIn(protocol=1, capabilities=can, **message))


@pytest.mark.parametrize("fields", [{"app_build": 6}, {"locale": "en-GB"}], ids=["build", "locale"])
async def test_a_device_that_has_changed_is_written_by_the_next_pass_and_another_every_ten_minutes(
    harness: CoordinatorHarness, fields: dict[str, Any]
) -> None:
    await harness.task()
    device, began = await harness.enrol(), harness.now
    seen = []
    for after_s, what in (
        (0.0, {}),
        (1.0, {}),
        (1.0, fields),
        (598.0, fields),
        (2.0, fields),
        (600.0, fields),
    ):
        harness.pass_time(after_s)
        await check_in_with(harness, device, **what)
        await harness.coordinator._seen_devices.write()
        row = await stored(harness, device)
        seen.append(((row.last_seen_at - began).total_seconds(), row.app_build, row.locale))

    build, locale = fields.get("app_build", 5), fields.get("locale", "en-US")
    assert seen == [
        (1e-06, 5, "en-US"),  # later than it was enrolled, or it would count as never seen
        (1e-06, 5, "en-US"),
        (2.0, build, locale),
        (2.0, build, locale),
        (602.0, build, locale),
        (1_202.0, build, locale),
    ]


async def test_a_server_at_its_limit_sends_devices_away_from_memory(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await harness.enrol()
    harness.load = 1.0
    without_task = await harness.check_in(device)
    await harness.task(pacing="min_s = 30.0")
    await harness.coordinator.tasks.create(task_spec("u", pacing="min_s = 40.0"), audit=AUDIT)
    with monkeypatch.context() as away:
        away.setattr(harness.store.devices, "get", fail)
        at_limit = await harness.check_in(device)
        harness.coordinator.registry._states[T].spread_s = 900.0
        spread = await harness.check_in(device)
    harness.load = 0.99
    below = await harness.check_in(device)

    assert refusal(without_task).return_window == ReturnWindow(min_s=120.0, max_s=240.0)
    assert refusal(at_limit).reason is RefusalReason.OVERLOADED
    assert refusal(at_limit).return_window == ReturnWindow(min_s=80.0, max_s=160.0)
    assert refusal(spread).return_window == ReturnWindow(min_s=80.0, max_s=900.0)
    assert isinstance(below, Assignment)


async def test_where_all_tasks_pause_the_longest_of_their_windows_is_told(
    harness: CoordinatorHarness,
) -> None:
    for name, min_s in (("t", 30.0), ("u", 40.0), ("v", 90.0)):
        await harness.task(name, pacing=f"min_s = {min_s}")
    none_left = await harness.enrol()
    for name in ("t", "u"):
        await harness.coordinator.tasks.pause(TaskName(name), audit=AUDIT)
    await harness.coordinator.tasks.cancel(TaskName("v"), audit=AUDIT)

    paused = await harness.check_in(await harness.enrol())
    for name in ("t", "u"):
        await harness.coordinator.tasks.cancel(TaskName(name), audit=AUDIT)
    over = await harness.check_in(none_left)

    assert (refusal(paused).reason, refusal(paused).return_window) == (
        RefusalReason.PAUSED,
        ReturnWindow(min_s=40.0, max_s=80.0),
    )
    assert (refusal(over).reason, refusal(over).return_window) == (
        RefusalReason.NO_ACTIVE_TASK,
        ReturnWindow(min_s=3_600.0, max_s=14_400.0),
    )


async def test_a_task_whose_round_is_not_open_yet_asks_for_patience(harness: CoordinatorHarness) -> None:
    await harness.coordinator.tasks.create(task_spec(), audit=AUDIT)

    answer = refusal(await harness.check_in(await harness.enrol()))

    assert (answer.reason, answer.detail) == (RefusalReason.ROUND_FULL, "The next round opens soon.")


async def test_a_device_takes_part_as_often_as_it_may_and_no_oftener(harness: CoordinatorHarness) -> None:
    await harness.task(
        round="goal = 4\nmin_flush_clients = 1\nunsafe_single_flush = true\nmax_rounds = 4",
        eligibility="max_participations = 2\nmin_separation_s = 0.0",
    )
    device = await harness.enrol()

    answers = []
    for _ in range(3):
        answers.append(await harness.check_in(device))
        claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
        if isinstance(answers[-1], Assignment):
            claims[0] = harness.claims(answers[-1])
        for one in claims:
            await send(harness, one, 1.0)
        await harness.coordinator.tick()
        harness.pass_time(400.0)

    assert [isinstance(one, Assignment) for one in answers] == [True, True, False]
    assert "taken part 2 times" in refusal(answers[-1]).detail


async def test_only_eligible_devices_are_counted_as_such(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="min_examples = 5")
    for examples in (1, 5, 5):
        await harness.check_in(await harness.enrol(), examples=examples)
    harness.pass_time(70.0)
    await harness.coordinator.tick()

    (counted,) = await harness.store.arrivals.since(T, hour_of(harness.now.timestamp()) - 1)

    assert (counted.check_ins, counted.eligible) == (3, 2)


async def test_a_buffers_device_keeps_the_work_that_an_earlier_one_gave_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    device = await harness.enrol()
    first = await harness.assigned(device)
    for one in await cohort(harness, 4):
        await send(harness, one, 1.0)
    await harness.coordinator.tick()

    again = await harness.assigned(device)

    assert open_round(harness).id == "t-2"
    assert (again.assignment, again.round, again.model_version) == (first.assignment, FIRST, 0)


async def test_a_buffers_device_whose_version_was_withdrawn_is_given_other_work(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round=BUFFER)
    phones = [await harness.enrol() for _ in range(2)]
    first = [await harness.assigned(phone) for phone in phones]
    for one in await cohort(harness, 4):
        await send(harness, one, 1.0)
    await harness.coordinator.tick()

    open_round(harness).withdrawn = frozenset({ModelVersion(0)})
    other = await harness.assigned(phones[0])
    with monkeypatch.context() as gone:
        gone.setattr(harness.store.rounds, "get", nothing)
        same = await harness.assigned(phones[1])

    assert (other.round, other.assignment == first[0].assignment) == ("t-2", False)
    assert same.assignment == first[1].assignment


async def nothing(*_: object) -> None:
    """Return None, as the store does for what is not there."""


async def test_a_device_of_a_round_is_known_from_memory(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task()
    device = await harness.enrol()
    monkeypatch.setattr(harness.store.assignments, "get", fail)

    first = await harness.assigned(device)

    assert await harness.assigned(device) == first


@pytest.mark.parametrize("code", [ProblemCode.MODEL_WITHDRAWN, ProblemCode.MODEL_UNKNOWN])
@pytest.mark.parametrize("advancing", ["written", "superseded", "failed"])
async def test_a_round_whose_version_is_withdrawn_is_discarded_and_no_other_error_is_taken_for_that(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, code: ProblemCode, advancing: str
) -> None:
    await harness.task()

    async def refused(*_: object) -> Assignment:
        raise ApiError(code, "No such version.")

    async def superseded(*_: object) -> None:
        raise Superseded(FIRST)

    monkeypatch.setattr(harness.coordinator.check_ins._assignments, "build", refused)
    if advancing != "written":
        monkeypatch.setattr(
            harness.store.rounds, "advance", superseded if advancing == "superseded" else fail
        )

    answer: Assignment | Refusal | Exception
    try:
        answer = await harness.check_in(await harness.enrol())
    except (ApiError, StorageError) as error:
        answer = error

    row = await harness.store.rounds.get(FIRST)
    assert row is not None
    is_discarded = code is ProblemCode.MODEL_WITHDRAWN and advancing == "written"
    assert row.round.phase is (Phase.DISCARDED if is_discarded else Phase.COLLECTING)
    if code is ProblemCode.MODEL_UNKNOWN:
        assert isinstance(answer, ApiError)
        assert answer.code is code
    elif advancing == "failed":
        assert isinstance(answer, StorageError)
    else:
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.detail) == (RefusalReason.ROUND_FULL, "The next round opens soon.")


async def test_a_device_that_is_forgotten_while_it_is_given_a_slot_gets_none(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task()
    device = await harness.enrol()
    commit = harness.store.group_writer.commit

    async def lose_and_commit(*what: Any) -> Any:  # noqa: ANN401 - handed on as they came
        await harness.forget(device)
        return await commit(*what)

    monkeypatch.setattr(harness.store.group_writer, "commit", lose_and_commit)
    with pytest.raises(ApiError) as refused:
        await harness.check_in(device)

    assert refused.value.code is ProblemCode.TOKEN_INVALID
    assert open_round(harness).members == {}
    assert await harness.store.rounds.get(FIRST) == open_round(harness).record

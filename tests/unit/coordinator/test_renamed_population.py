"""A renamed population goes on under every name that it had, in every process at once."""

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, task_spec
from tests.unit.coordinator.listed import listed_devices, listed_populations

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Assignment, EnrolRequest
from keyflock_server.protocol.operator.populations import RenameOrder, RollbackOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode

pytestmark = pytest.mark.fault("F14")

ENGLISH, DE = PopulationName("english"), PopulationName("de")
ANN = "vT0hJ3qkX2m9sY8bQw5Zrg"


async def enrolled(harness: CoordinatorHarness, population: str) -> DeviceIdentity:
    request = EnrolRequest(protocol=1, population=population, app_build=5, locale="en-US", user=ANN)
    device = await harness.coordinator.enrolments.enrol(request, None)
    return DeviceIdentity(device.device, device.population, device.generation)


async def rename(harness: CoordinatorHarness, name: str, to: str) -> list[str]:
    view = await harness.coordinator.populations.rename(
        PopulationName(name), RenameOrder(to=to, reason="a test"), audit=AUDIT
    )
    return [view.name, *view.former_names]


async def test_another_process_knows_the_new_name_and_the_former_one_at_once() -> None:
    harness = CoordinatorHarness()
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there):
        await replica.start()
    await harness.create_population()
    await harness.task()

    names = await rename(harness, "en", "english")
    harness.coordinator = there
    phones = [await enrolled(harness, name) for name in ("en", "english")]
    created = await there.tasks.create(task_spec("u"), audit=AUDIT)
    await there.tick()

    assert names == ["english", "en"]
    assert {phone.population for phone in phones} == {POPULATION}
    # One user: the same digest under either name, so one personal model and one set of limits.
    rows = [await harness.store.devices.get(phone.device) for phone in phones]
    assert len({row.user_digest for row in rows if row is not None}) == 1
    assert (created.population, created.spec["task"]["population"]) == ("english", "english")
    answers = [await harness.check_in(phone) for phone in phones]
    assert all(isinstance(answer, Assignment) for answer in answers)
    for replica in (here, there):
        await replica.stop()


async def test_a_name_goes_back_and_forth_and_stays_the_populations_own(harness: CoordinatorHarness) -> None:
    assert await rename(harness, "en", "english") == ["english", "en"]
    assert await rename(harness, "english", "british") == ["british", "en", "english"]
    assert await rename(harness, "en", "en") == ["en", "british", "english"]

    assert [one.name for one in await listed_populations(harness.coordinator)] == ["en"]


@pytest.mark.parametrize("taken", ["en", "english"])
async def test_no_other_population_gets_a_name_that_one_has_or_had(
    harness: CoordinatorHarness, taken: str
) -> None:
    await rename(harness, "en", "english")
    await harness.create_other_population(DE)

    with pytest.raises(ApiError) as renamed:
        await rename(harness, "de", taken)
    with pytest.raises(ApiError) as created:
        await harness.create_other_population(PopulationName(taken))

    assert [one.value.code for one in (renamed, created)] == [ProblemCode.CONFLICT] * 2
    assert "has, or once had, the name" in renamed.value.detail
    assert [one.name for one in await listed_populations(harness.coordinator)] == ["de", "english"]


async def test_every_call_about_a_population_takes_any_of_its_names(harness: CoordinatorHarness) -> None:
    await harness.task()
    await rename(harness, "en", "english")
    populations, phone = harness.coordinator.populations, await enrolled(harness, "english")

    for name in (POPULATION, ENGLISH):
        preview = await populations.preview_cohort(name, "tier >= 0")
        devices = await listed_devices(harness.coordinator, name)
        with pytest.raises(ApiError) as refused:
            await populations.roll_back(name, RollbackOrder(to=0, reason="worse"), audit=AUDIT)
        assert (preview.population, preview.enrolled) == (name, 1)
        assert [(one.id, one.population) for one in devices] == [(phone.device, "english")]
        assert refused.value.code is ProblemCode.CONFLICT  # version 0 is the newest
    view = await harness.coordinator.quarantines.device(phone.device)
    assert view.population == "english"


async def test_an_unknown_population_is_not_renamed(harness: CoordinatorHarness) -> None:
    with pytest.raises(ApiError) as refused:
        await rename(harness, "xx", "yy")

    assert refused.value.code is ProblemCode.POPULATION_UNKNOWN

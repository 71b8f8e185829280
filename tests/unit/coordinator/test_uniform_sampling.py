"""The cohort is a uniform sample of the devices that come, however fast and however often."""

import contextlib
import heapq
import random

from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.problems import ApiError

DEVICES = 120
ROUNDS = 40
GOAL = 24


async def test_sampling_is_uniform_over_devices_of_different_speed_and_frequency(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(
        round="goal = 24\nover_selection = 0.0\nminimum = 4\ndeadline_s = 1200.0\nselection_s = 1000.0",
        pacing="min_s = 5.0\nmax_s = 120.0",
    )
    rng = random.Random(11)
    devices = [await harness.enrol() for _ in range(DEVICES)]
    # A third comes every 20 s, a third every 60, a third every 120; each trains for 1 to 100 s.
    visit_s = [(20.0, 60.0, 120.0)[number % 3] for number in range(DEVICES)]
    train_s = [rng.lognormvariate(2.5, 0.8) for _ in range(DEVICES)]
    queue = [(rng.uniform(0.0, visit_s[number]), number, "visit") for number in range(DEVICES)]
    heapq.heapify(queue)
    taken: dict[str, set[int]] = {}
    work: dict[int, Assignment] = {}
    began_at, tick_s = harness.now, 0.0

    while len(taken) <= ROUNDS:
        at_s, number, what = heapq.heappop(queue)
        while tick_s <= at_s:
            harness.pass_time(tick_s - (harness.now - began_at).total_seconds())
            await harness.coordinator.tick()
            tick_s += 2.0
        harness.pass_time(at_s - (harness.now - began_at).total_seconds())
        if what == "visit":
            await _visit(harness, devices[number], number, taken, work)
            pause_s = train_s[number] if number in work else visit_s[number] * rng.uniform(0.9, 1.1)
            heapq.heappush(queue, (at_s + pause_s, number, "report" if number in work else "visit"))
        else:
            await _deliver(harness, work.pop(number))
            heapq.heappush(queue, (at_s + visit_s[number] * rng.uniform(0.9, 1.1), number, "visit"))

    # Pearson's statistic for draws without replacement: each round takes a device with probability q, with
    # variance q (1 - q). With 119 degrees of freedom it is above 198.0 once in 100,000; ids, key and seed are
    # fixed, so this passes always or never.
    rounds = list(taken.values())[:ROUNDS]
    counts = [sum(number in members for members in rounds) for number in range(DEVICES)]
    share = sum(counts) / (DEVICES * ROUNDS)
    mean, variance = share * ROUNDS, share * (1.0 - share) * ROUNDS
    statistic = sum((one - mean) ** 2 for one in counts) / variance * (DEVICES - 1) / DEVICES
    by_frequency = [sum(counts[group::3]) for group in range(3)]

    assert sum(len(members) for members in rounds) >= ROUNDS * GOAL
    assert statistic < 198.0, (statistic, by_frequency)
    # The groups' totals: 2 degrees of freedom, above 23.0 once in 100,000.
    third = sum(by_frequency) / 3
    assert sum((one - third) ** 2 / (third * (1.0 - share)) for one in by_frequency) < 23.0, by_frequency


async def _visit(
    harness: CoordinatorHarness,
    device: DeviceIdentity,
    number: int,
    taken: dict[str, set[int]],
    work: dict[int, Assignment],
) -> None:
    answer = await harness.check_in(device)
    if isinstance(answer, Assignment) and number not in taken.setdefault(answer.round, set()):
        taken[answer.round].add(number)
        work[number] = answer


async def _deliver(harness: CoordinatorHarness, assignment: Assignment) -> None:
    # Too late, or it waits for its micro-batch: the sample is what counts here.
    with contextlib.suppress(ApiError):
        await harness.coordinator.reports.report(
            harness.claims(assignment), report(constant(1.0), of=harness.claims(assignment))
        )

"""Phones and the real server personalise together: in virtual time inside one process, and over HTTP."""

import json
import math
from pathlib import Path

import msgspec
from tests.unit.personalising.phone_users import (
    CONFIG,
    LAYOUT,
    PRIVATE_WORD,
    VOCABULARY,
    Here,
    checkpoint,
    habits,
)

from keyflock_client_sim.device import requests
from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.requests import OutgoingCall
from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.personalising.personal_trainer import PersonalTrainer
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import running_server
from keyflock_client_sim.testing.fake_trainers import RandomDeltaTrainer
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Exchange, Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Capabilities, Enrolment, Release, Report
from keyflock_server.protocol.operator.rounds import RoundView

POPULATION = PopulationName("en-US")
CAPABILITIES = Capabilities(tasks=("train", "personalize"))
MESSAGES = {f"phone-{number}": habits(number) for number in range(12)}
TASK = """
[task]
name = "personal"
population = "en-US"
kind = "personalize"
[round]
goal = 8
max_rounds = 2
selection_s = 1.0
[pacing]
min_s = {min_s}
max_s = {max_s}
[personalising]
words_needed = 100
[[personalising.heads]]
rank = 2
biases = 16
epochs = 2
[[personalising.heads]]
rank = 0
biases = 32
epochs = 4
learning_rate = 0.05
"""


def phones(
    profile: str, capabilities: Capabilities = CAPABILITIES, retry_policy: RetryPolicy | None = None
) -> tuple[Phone, ...]:
    return make_fleet(
        dict.fromkeys(MESSAGES, 20),
        population=POPULATION,
        profile=PROFILES[profile],
        seed=1,
        retry_policy=retry_policy,
        capabilities=capabilities,
    )


def trainer(folder: Path) -> PersonalTrainer:
    other = RandomDeltaTrainer(dict.fromkeys(MESSAGES, 20), LAYOUT)
    folder.mkdir(parents=True)
    return PersonalTrainer(
        other, Here(folder), CONFIG, VOCABULARY, MESSAGES, seconds_of=lambda phone: float(phone[6:])
    )


def holders_of(word: str, folder: Path) -> list[Path]:
    """Files in which the word stands."""
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def is_over(stats: FleetStats) -> bool:
    return stats.no_more_tasks > 0


async def released(exchange: Exchange) -> Release:
    """What keyboards are told to serve."""
    visitor = Installation(population=POPULATION, app_build=100, locale="en-US")
    enrol = requests.request(requests.enrol(visitor), token=None, assignment_token=None)
    token = wire.decode((await exchange.send(enrol)).body, Enrolment).token
    ask = OutgoingCall(calls.RELEASE, path_params={"population": POPULATION})
    answer = await exchange.send(requests.request(ask, token=token, assignment_token=None))
    return wire.decode(answer.body, Release)


class Overhearing:
    """The server, and every report that went to it."""

    def __init__(self, server: Exchange) -> None:
        self._server = server
        self.reports: list[bytes] = []

    async def send(self, request: Request) -> Response:
        """On to the server."""
        if request.path.endswith("/report"):
            self.reports.append(request.body)
        return await self._server.send(request)

    async def tick(self) -> None:
        """On to the server."""
        await self._server.tick()  # type: ignore[attr-defined]  # the embedded one has it


async def in_virtual_time(
    folder: Path, capabilities: Capabilities = CAPABILITIES, limit_s: float = 7_200.0
) -> tuple[FleetStats, list[RoundView], Release, list[bytes]]:
    clock, personal = VirtualClock(), trainer(folder / "shelf")
    opening = embedded_server(
        folder / "server",
        clock,
        population=POPULATION,
        checkpoint=checkpoint().to_bytes(),
        task=TASK.format(min_s=5.0, max_s=60.0),
    )
    async with opening as server:
        overhearing = Overhearing(server)
        fleet = VirtualTimeFleet(phones("demo", capabilities), overhearing, personal, clock)
        stats = await fleet.run(until=is_over, limit_s=limit_s)
        return stats, await fetch_rounds(server, "personal"), await released(server), overhearing.reports


async def test_twelve_phones_make_a_populations_priors_in_virtual_time(tmp_path: Path) -> None:
    stats, views, release, reports = await in_virtual_time(tmp_path / "one")

    assert [(view.phase, view.counted, view.result_version) for view in views] == [("closed", 8, None)] * 2
    assert stats.reports_acked == sum(view.counted for view in views)
    assert release.model_version == 0
    found = release.personalisation
    assert found is not None
    assert (found.round, found.phones) == ("personal-2", 8)
    assert found.prior.gain_mean > 0.1
    figures = [view.figures or {} for view in views]
    assert all(one["share_helped"] > 0.5 and one["share_hurt"] == 0.0 for one in figures)
    best = max(range(2), key=lambda at: figures[at]["late_gain"])
    assert found.head.biases == (32, 16)[best]
    assert {len(report) for report in reports} == {len(reports[0])}
    for body in reports:
        report = wire.decode(body, Report)
        assert (report.examples, report.train_s, report.loss_before, report.loss_after) == (
            1,
            None,
            None,
            None,
        )
        assert PRIVATE_WORD.encode() not in body
    assert holders_of(PRIVATE_WORD, tmp_path / "one") == []


async def test_the_same_fleet_makes_the_same_priors(tmp_path: Path) -> None:
    first = await in_virtual_time(tmp_path / "one")
    second = await in_virtual_time(tmp_path / "two")

    assert first[2].personalisation == second[2].personalisation


async def test_phones_that_do_not_know_the_kind_are_left_alone(tmp_path: Path) -> None:
    stats, views, release, reports = await in_virtual_time(tmp_path / "one", Capabilities(), limit_s=120.0)

    assert (stats.assigned, reports, release.personalisation) == (0, [], None)
    assert all(view.counted == 0 for view in views)


async def test_twelve_phones_make_a_populations_priors_over_http(tmp_path: Path) -> None:
    crew = phones("ideal", retry_policy=RetryPolicy(first_pause_s=0.2))
    with running_server(tmp_path / "server") as process:
        async with (
            operator_client(process.admin_url, process.admin_token()) as admin,
            HttpExchange(process.sdk_url) as exchange,
        ):
            await admin.create_population(POPULATION, checkpoint().to_bytes(), reason="a test")
            await admin.create_task(TASK.format(min_s=0.05, max_s=0.5), reason="a test")
            fleet = RealTimeFleet(crew, exchange, trainer(tmp_path / "shelf"), time_scale=math.inf)

            stats = await fleet.run(until=is_over, limit_s=600.0)

            views = await admin.rounds("personal")
            (population,) = await admin.populations()
            release = await released(exchange)
    assert stats.reports_acked == sum(view.counted for view in views), stats.summary()
    assert [view.phase for view in views] == ["closed", "closed"]
    assert release.personalisation is not None
    assert population.personalisation is not None
    assert population.personalisation["prior"] == json.loads(
        msgspec.json.encode(release.personalisation.prior)
    )

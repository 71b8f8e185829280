"""A real Prometheus scrapes a real server with phones, takes the rules, and finds what they name."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.http.rounds.test_round_over_http import cohort, until_round_is

from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.series import SERIES, process
from keyflock_server.telemetry.series.declaration import SeriesKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.http.rounds.conftest import RunningServer

DEPLOY = Path(__file__).parents[3] / "deploy" / "prometheus"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], input=given, capture_output=True, check=False, timeout=120
    )
    printed = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, printed
    return printed


@needs_promtool
def test_promtool_takes_the_configuration_and_the_rules_and_their_tests_pass() -> None:
    assert "SUCCESS" in promtool("check", "rules", DEPLOY / "alerts.yml")
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", DEPLOY / "alerts_test.yml")


@needs_promtool
def test_promtool_finds_nothing_to_say_of_the_names_and_units_of_our_series() -> None:
    own = b"".join(
        line
        for line in Metrics().exposition().splitlines(keepends=True)
        if b" process_" not in line and not line.startswith(b"process_")
    )

    assert promtool("check", "metrics", given=own) == ""


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON of Prometheus
        """Return the data of an answer; None while it does not answer."""
        try:
            async with self._session.get(f"{self._url}/api/v1/{path}", params=query) as answer:
                return (await answer.json())["data"] if answer.status == 200 else None
        except aiohttp.ClientConnectionError:
            return None

    async def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one result, or None."""
        data = await self.get("query", query=expression)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None


@asynccontextmanager
async def scraping(admin_url: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with our configuration, scraping this port twice a second."""
    text = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:8701", admin_url.removeprefix("http://")).replace(": 15s", ": 500ms")
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(DEPLOY / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert PROMETHEUS is not None
    running = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        running.kill()
        await running.wait()


async def until(prometheus: Prometheus, expression: str, value: float) -> None:
    async with asyncio.timeout(120.0):
        while await prometheus.value(expression) != value:  # noqa: ASYNC110 - another program's pace
            await asyncio.sleep(0.2)


@needs_prometheus
async def test_prometheus_sees_both_ports_of_a_server_with_phones_and_its_rules_are_sound(
    server: RunningServer, tmp_path: Path
) -> None:
    phones = await cohort(server)
    await asyncio.gather(*(phone.report(work, server.delta(work)) for phone, work in phones))
    await until_round_is(server, "closed")

    async with scraping(server.addresses.admin_url, tmp_path) as prometheus:
        await until(prometheus, 'keyflock_reports_total{outcome="counted"}', 4.0)
        await until(prometheus, 'keyflock_model_version{population="en-US"}', 1.0)
        operators = await prometheus.value('keyflock_open_connections{port="operators"}')
        reports = await prometheus.value('keyflock_request_duration_seconds_count{call="report"}')
        scraped = set(await prometheus.get("label/__name__/values"))
        rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
        (target,) = (await prometheus.get("targets"))["activeTargets"]

    names = {
        f"{series.name}_count" if series.kind is SeriesKind.HISTOGRAM else series.name
        for series in SERIES
        if series.starts_at_zero or series in process.OF_LIBRARY
    }
    assert names - scraped == set()
    assert target["health"] == "up"
    assert reports is not None
    assert reports >= 4.0
    assert operators is not None  # it is Prometheus' own
    assert operators >= 1.0
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert {rule["lastError"] for rule in rules if "lastError" in rule} == set()
    assert len(rules) >= 20


async def test_the_phones_port_has_no_metrics(server: RunningServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.addresses.sdk_url}/metrics") as answer,
    ):
        assert answer.status == 404

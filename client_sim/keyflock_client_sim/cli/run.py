"""``keyflock-sim run`` runs phones against an existing server, or in virtual time with an embedded one."""

import asyncio
import json
import logging
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, PROFILES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode
from keyflock_client_sim.cli.signals import ending_signals, treat_signals_as_interrupt

if TYPE_CHECKING:
    from keyflock_client_sim.drivers.fleet_stats import FleetStats
    from keyflock_client_sim.drivers.real_time import RealTimeFleet
    from keyflock_client_sim.drivers.trainer import Trainer
    from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
    from keyflock_client_sim.fleet.phone import Phone
    from keyflock_client_sim.fleet.profiles import FleetProfile
    from keyflock_server.protocol.calls import Exchange

    Fleet = RealTimeFleet | VirtualTimeFleet

#: How often the status line is redrawn.
REDRAW_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunOptions:
    population: str
    data: str
    devices: int
    seed: int
    rounds: int | None
    seconds: float | None
    profile: "FleetProfile"
    time_scale: float
    workers: int | None
    keyboards: bool
    as_json: bool


def run(
    *,
    url: Annotated[
        str | None, typer.Option(metavar="http://HOST:PORT", help="The server's address for phones.")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            envvar="KEYFLOCK_CA_FILE",
            help="PEM file with the authority of the server's certificate.",
            show_default="the system's authorities",
        ),
    ] = None,
    population: Annotated[str, typer.Option(help="Whose phones they are.")] = "en-US",
    data: Annotated[str, typer.Option(metavar=DATA, help="Their text.")] = "shakespeare",
    devices: Annotated[int, typer.Option(min=1, help="Phones, as far as the text goes.")] = 200,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Decides text, traits and failures; with --virtual the whole run, with --url not what the "
            "server samples, nor when.",
        ),
    ] = 0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="End after so many; otherwise with the task.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long.")] = None,
    profile: Annotated[str, typer.Option(metavar=PROFILES, help="What phones are like.")] = "demo",
    time_scale: Annotated[
        float, typer.Option(min=0.001, help="Real time only: how much faster simulated time passes.")
    ] = 1.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; default: one a core.")
    ] = None,
    keyboards: Annotated[
        bool, typer.Option("--keyboards", help="Phones also fetch what keyboards are to serve.")
    ] = False,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="In virtual time, with a server inside; needs the next two.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Virtual time: version 0 (safetensors).")] = None,
    task: Annotated[Path | None, typer.Option(help="Virtual time: the task (TOML).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a fleet of phones: check in, train, report; until rounds, time or task end, or Ctrl-C."""
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.drivers.population_info import PopulationInfoError
    from keyflock_client_sim.fleet.profiles import ProfileError, read_profile
    from keyflock_server.protocol.addresses import AddressError, server_address
    from keyflock_server.protocol.operator_client import OperatorError

    if virtual == (url is not None):
        raise SimulatorError("give the server's --url, or --virtual", SimulatorExitCode.USAGE)
    try:
        url = None if url is None else server_address(url)
        options = _RunOptions(
            population=population,
            data=data,
            devices=devices,
            seed=seed,
            rounds=rounds,
            seconds=seconds,
            profile=read_profile(profile),
            time_scale=time_scale,
            workers=workers,
            keyboards=keyboards,
            as_json=as_json,
        )
        if url is not None:
            asyncio.run(_in_real_time(url, _trust(ca_file), options))
            return
        if checkpoint is None or task is None:
            raise SimulatorError("virtual time needs --checkpoint and --task", SimulatorExitCode.USAGE)
        asyncio.run(_in_virtual_time(_read(checkpoint), _read(task).decode("utf-8-sig"), options))
    except AddressError as error:
        raise SimulatorError(f"--url: {error}", SimulatorExitCode.USAGE) from None
    except (CorpusError, ProfileError, OperatorError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except UnicodeDecodeError as error:
        raise SimulatorError(f"{task}: not UTF-8 text", SimulatorExitCode.INPUT) from error
    except PopulationInfoError as error:
        raise SimulatorError(str(error), SimulatorExitCode.UNREACHABLE) from error
    except ConnectionError as error:
        raise SimulatorError(f"no server answers at {url}: {error}", SimulatorExitCode.UNREACHABLE) from error


def _trust(ca_file: Path | None) -> ssl.SSLContext | None:
    try:
        return None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # OpenSSL's errors are such, too
        reason = "no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise SimulatorError(f"--ca-file: {ca_file}: {reason}", SimulatorExitCode.INPUT) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SimulatorError(f"{path}: {error.strerror or error}", SimulatorExitCode.INPUT) from error


async def _in_real_time(url: str, trust: ssl.SSLContext | None, options: _RunOptions) -> None:
    from keyflock_client_sim.drivers.http_exchange import HttpExchange
    from keyflock_client_sim.drivers.real_time import RealTimeFleet

    async with (
        HttpExchange(url, trust=trust) as exchange,
        _phones_and_trainer(exchange, options, time.monotonic) as (phones, trainer),
    ):
        fleet = RealTimeFleet(phones, exchange, trainer, time_scale=options.time_scale)
        await _run_fleet(fleet, options)


async def _in_virtual_time(checkpoint: bytes, task: str, options: _RunOptions) -> None:
    from keyflock_client_sim.drivers.embedded_server import embedded_server
    from keyflock_client_sim.drivers.virtual_clock import VirtualClock
    from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet

    _silence_the_server()
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="keyflock-virtual-") as folder:
        place = Path(folder) / "server"
        opening = embedded_server(
            place,
            clock,
            seed=options.seed,
            population=options.population,
            checkpoint=checkpoint,
            task=task,
        )
        async with (
            opening as server,
            _phones_and_trainer(server, options, lambda: clock.now_s) as (phones, trainer),
        ):
            await _run_fleet(VirtualTimeFleet(phones, server, trainer, clock), options)


@asynccontextmanager
async def _phones_and_trainer(
    exchange: "Exchange", options: _RunOptions, clock: Callable[[], float]
) -> "AsyncIterator[tuple[tuple[Phone, ...], Trainer]]":
    """Yield phones with their text, and a trainer with worker processes on the fleet's clock."""
    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
    from keyflock_client_sim.drivers.population_info import fetch_population
    from keyflock_client_sim.evaluating.evaluating_trainer import ALL_CAPABILITIES, EvaluatingTrainer
    from keyflock_client_sim.evaluating.held_out_messages import split_messages
    from keyflock_client_sim.fleet.population import make_fleet
    from keyflock_client_sim.fleet.texts import encode_texts, split_into_phones
    from keyflock_client_sim.personalising.personal_trainer import PersonalTrainer
    from keyflock_client_sim.training.pool import WorkerPool, available_cores
    from keyflock_server.protocol.identifiers import PopulationName

    population = PopulationName(options.population)
    found = await fetch_population(exchange, population)
    parts = split_into_phones(options.data, devices=options.devices, seed=options.seed)
    if parts.left_out.users:
        make_console(stderr=True).print(str(parts.left_out), soft_wrap=True)
    messages = {phone.device: phone.messages for phone in parts.phones}
    splits = {name: split_messages(typed, name) for name, typed in messages.items()}
    held_out = {name: parts.held_out for name, parts in splits.items()}
    sequences = encode_texts({name: parts.trained for name, parts in splits.items()}, found.vocabulary)
    examples = {name: len(rows) for name, rows in sequences.items()}
    phones = make_fleet(
        examples,
        population=population,
        profile=options.profile,
        seed=options.seed,
        capabilities=ALL_CAPABILITIES,
        with_keyboards=options.keyboards,
    )
    speeds = {phone.name: phone.traits.train_s(phone.examples) for phone in phones}
    cache = user_cache_folder(os.environ) / "xla"
    async with WorkerPool(options.workers or available_cores(), compilation_cache=cache) as pool:
        training = PoolTrainer(pool, found.config, sequences, clock)
        personalising = PersonalTrainer(
            training, pool, found.config, found.vocabulary, messages, seconds_of=speeds.__getitem__
        )
        yield (
            phones,
            EvaluatingTrainer(personalising, pool, found.config, found.vocabulary, held_out),
        )


async def _run_fleet(fleet: "Fleet", options: _RunOptions) -> None:
    from keyflock_client_sim.console import changing_line, make_console
    from keyflock_client_sim.drivers.fleet_stats_page import (
        status_line,
        summary_table,
        unacknowledged_hint,
    )

    console = make_console(stderr=options.as_json)
    limit_s = float("inf") if options.seconds is None else options.seconds
    _stop_on_interrupt(fleet)
    with changing_line(console) as show:
        drawing = asyncio.create_task(_redraw(lambda: show(status_line(fleet.stats))))
        try:
            await fleet.run(until=_end(options.rounds), limit_s=limit_s)
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
    if options.as_json:
        typer.echo(json.dumps(fleet.stats.summary()))
    else:
        console.print(summary_table(fleet.stats))
    if hint := unacknowledged_hint(fleet.stats):
        make_console(stderr=True).print(hint, soft_wrap=True)


def _end(rounds: int | None) -> "Callable[[FleetStats], bool]":
    """Return the condition to stop: after so many rounds, or when the task has no more work."""

    def is_over(stats: "FleetStats") -> bool:
        if rounds is not None and stats.rounds_closed >= rounds:
            return True
        return stats.assigned > 0 and stats.no_more_tasks > 0

    return is_over


def _stop_on_interrupt(fleet: "Fleet") -> None:
    """Handle Ctrl-C and its like: the first lets phones settle their reports; the second ends at once."""
    loop = asyncio.get_running_loop()
    signals = ending_signals()

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        treat_signals_as_interrupt()
        fleet.stop()

    for number in signals:
        loop.add_signal_handler(number, stop)


async def _redraw(draw: Callable[[], None]) -> None:
    while True:
        draw()
        await asyncio.sleep(REDRAW_S)


def _silence_the_server() -> None:
    """Silence the server's log, which would mix with the figures; errors are in the fleet's statistics."""
    logging.getLogger("keyflock").addHandler(logging.NullHandler())

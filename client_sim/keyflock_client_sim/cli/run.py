"""``keyflock-sim run``: phones against a server that is there, or in virtual time with one of their own."""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyflock_client_sim.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from keyflock_client_sim.drivers.books import Books
    from keyflock_client_sim.drivers.real_time import RealTimeFleet
    from keyflock_client_sim.drivers.trainer import Trainer
    from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
    from keyflock_client_sim.fleet.phone import Phone
    from keyflock_client_sim.fleet.profiles import FleetProfile
    from keyflock_server.protocol.calls import Exchange

    Fleet = RealTimeFleet | VirtualTimeFleet

#: How often the moving line is drawn anew.
REDRAW_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wishes:
    population: str
    data: str
    devices: int
    seed: int
    rounds: int | None
    seconds: float | None
    profile: "FleetProfile"
    time_scale: float
    workers: int | None
    as_json: bool


def run(
    *,
    url: Annotated[str | None, typer.Option(help="The server's address for phones.")] = None,
    population: Annotated[str, typer.Option(help="Whose phones they are.")] = "en-US",
    data: Annotated[
        str, typer.Option(help="Their text: a .jsonl(.gz) file, or 'shakespeare'.")
    ] = "shakespeare",
    devices: Annotated[int, typer.Option(min=1, help="Phones, as far as the text goes.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides text, traits and luck.")] = 0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="End after so many; otherwise with the task.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long.")] = None,
    profile: Annotated[
        str, typer.Option(help="What phones are like: demo, realistic, heavy_tailed, ideal or a .toml file.")
    ] = "demo",
    time_scale: Annotated[
        float, typer.Option(min=0.001, help="Real time only: how much faster phones live than they would.")
    ] = 1.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; default: one a core.")
    ] = None,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="In virtual time, with a server inside; needs the next two.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Virtual time: version 0 (safetensors).")] = None,
    task: Annotated[Path | None, typer.Option(help="Virtual time: the task (TOML).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let a fleet of phones live: check in, train, report; until rounds, time or task end, or Ctrl-C."""
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.drivers.embedded import EmbeddedServerError
    from keyflock_client_sim.drivers.scout import ScoutError
    from keyflock_client_sim.fleet.profiles import ProfileError, read_profile

    if virtual == (url is not None):
        raise CommandError("give the server's --url, or --virtual", ExitCode.USAGE)
    try:
        wishes = _Wishes(
            population=population,
            data=data,
            devices=devices,
            seed=seed,
            rounds=rounds,
            seconds=seconds,
            profile=read_profile(profile),
            time_scale=time_scale,
            workers=workers,
            as_json=as_json,
        )
        if url is not None:
            asyncio.run(_in_real_time(url, wishes))
            return
        if checkpoint is None or task is None:
            raise CommandError("virtual time needs --checkpoint and --task", ExitCode.USAGE)
        asyncio.run(_in_virtual_time(_read(checkpoint), _read(task).decode(), wishes))
    except (CorpusError, ProfileError, EmbeddedServerError) as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{task}: not UTF-8 text", ExitCode.INPUT) from error
    except ScoutError as error:
        raise CommandError(str(error), ExitCode.UNREACHABLE) from error
    except ConnectionError as error:
        raise CommandError(f"no server answers at {url}: {error}", ExitCode.UNREACHABLE) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", ExitCode.INPUT) from error


async def _in_real_time(url: str, wishes: _Wishes) -> None:
    from keyflock_client_sim.drivers.http_exchange import HttpExchange
    from keyflock_client_sim.drivers.real_time import RealTimeFleet

    async with HttpExchange(url) as exchange, _outfitted(exchange, wishes) as (phones, trainer):
        fleet = RealTimeFleet(phones, exchange, trainer, time_scale=wishes.time_scale)
        await _live(fleet, wishes)


async def _in_virtual_time(checkpoint: bytes, task: str, wishes: _Wishes) -> None:
    from keyflock_client_sim.drivers.embedded import embedded_server
    from keyflock_client_sim.drivers.virtual_clock import VirtualClock
    from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet

    _silence_the_server()
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="keyflock-virtual-") as folder:
        place = Path(folder) / "server"
        opening = embedded_server(
            place, clock, population=wishes.population, checkpoint=checkpoint, task=task
        )
        async with opening as server, _outfitted(server, wishes) as (phones, trainer):
            await _live(VirtualTimeFleet(phones, server, trainer, clock), wishes)


@asynccontextmanager
async def _outfitted(
    exchange: "Exchange", wishes: _Wishes
) -> "AsyncIterator[tuple[tuple[Phone, ...], Trainer]]":
    """Phones with their text, and the processes that train for them, while the block lasts."""
    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
    from keyflock_client_sim.drivers.scout import scout
    from keyflock_client_sim.fleet.population import make
    from keyflock_client_sim.fleet.texts import in_sequences, phone_messages
    from keyflock_client_sim.personalising.personal_trainer import CAPABILITIES, PersonalTrainer
    from keyflock_client_sim.training.pool import WorkerPool, available_cores
    from keyflock_server.protocol.identifiers import PopulationName

    population = PopulationName(wishes.population)
    found = await scout(exchange, population)
    messages = phone_messages(wishes.data, devices=wishes.devices, seed=wishes.seed)
    sequences = in_sequences(messages, found.vocabulary)
    examples = {name: len(rows) for name, rows in sequences.items()}
    phones = make(
        examples,
        population=population,
        profile=wishes.profile,
        seed=wishes.seed,
        capabilities=CAPABILITIES,
    )
    speeds = {phone.name: phone.traits.train_s(phone.examples) for phone in phones}
    cache = user_cache_folder(os.environ) / "xla"
    async with WorkerPool(wishes.workers or available_cores(), compilation_cache=cache) as pool:
        training = PoolTrainer(pool, found.config, sequences)
        yield (
            phones,
            PersonalTrainer(
                training, pool, found.config, found.vocabulary, messages, seconds_of=speeds.__getitem__
            ),
        )


async def _live(fleet: "Fleet", wishes: _Wishes) -> None:
    from rich.console import Console

    from keyflock_client_sim.drivers.books_page import line, table

    console = Console(stderr=wishes.as_json)
    limit_s = float("inf") if wishes.seconds is None else wishes.seconds
    _stop_on_interrupt(fleet)
    with console.status("") as status:
        drawing = asyncio.create_task(_redraw(lambda: status.update(line(fleet.books))))
        try:
            await fleet.run(until=_end(wishes.rounds), limit_s=limit_s)
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
    if wishes.as_json:
        typer.echo(json.dumps(fleet.books.summary()))
    else:
        console.print(table(fleet.books))


def _end(rounds: int | None) -> "Callable[[Books], bool]":
    """After so many rounds, or when the task that phones worked for has no more to do."""

    def is_over(books: "Books") -> bool:
        if rounds is not None and books.rounds_closed >= rounds:
            return True
        return books.assigned > 0 and books.sent_home > 0

    return is_over


def _stop_on_interrupt(fleet: "Fleet") -> None:
    """The first Ctrl-C lets phones settle what they have under way; the second ends at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        fleet.stop()

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGINT, stop)


async def _redraw(draw: Callable[[], None]) -> None:
    while True:
        draw()
        await asyncio.sleep(REDRAW_S)


def _silence_the_server() -> None:
    """Its log would be written between the figures; what goes wrong is in the phones' books."""
    logging.getLogger("keyflock").addHandler(logging.NullHandler())

"""``keyflock-sim demo`` runs federated training end to end on this machine."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from keyflock_client_sim.cli.choices import DATA, MAX_SEED, SIZES
from keyflock_client_sim.cli.failures import SimulatorError, SimulatorExitCode
from keyflock_client_sim.corpora.splits import HeldOutBy
from keyflock_client_sim.training_setup.options import DemoError, DemoOptions

if TYPE_CHECKING:
    from keyflock_client_sim.demo.result import DemoResult

_DEFAULTS = DemoOptions()
#: The demo's time limit when the number of rounds is not given.
_LIMIT_S = 185.0


def demo(
    data: Annotated[
        str, typer.Option(metavar=DATA, help="The phones' text: users and their messages.")
    ] = _DEFAULTS.data,
    pretrain: Annotated[
        str,
        typer.Option(
            metavar="FILE|builtin|none",
            help="What version 0 has learned from: a public third of the text (builtin), nothing (none), "
            "another corpus, or a .safetensors checkpoint to start from.",
        ),
    ] = _DEFAULTS.pretrain,
    devices: Annotated[int, typer.Option(help="Phones.")] = _DEFAULTS.devices,
    rounds: Annotated[
        int | None,
        typer.Option(help="Rounds to play.", show_default=f"{_DEFAULTS.rounds}, or what fits in 3 minutes"),
    ] = None,
    goal: Annotated[int, typer.Option(help="Reports that close a round.")] = _DEFAULTS.goal,
    held_out: Annotated[
        str,
        typer.Option(
            metavar="phone|user",
            help="Who is asked: phones that took no part, or users none of whose phones did (stricter).",
        ),
    ] = _DEFAULTS.held_out,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Decides version 0, who holds which text, what phones are like and which calls and "
            "trainings fail; not whom the server samples, nor when: time is real, so figures differ.",
        ),
    ] = _DEFAULTS.seed,
    size: Annotated[str, typer.Option(metavar=SIZES, help="Size of the model.")] = _DEFAULTS.size,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep everything in this folder; run it again to go on.", show_default="no"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line; all else goes to stderr.")
    ] = False,
) -> None:
    """Phones learn together over HTTP: a server of its own, a fleet, rounds, and a verdict."""
    try:
        options = DemoOptions(
            data=data,
            pretrain=pretrain,
            devices=devices,
            rounds=_DEFAULTS.rounds if rounds is None else rounds,
            goal=goal,
            held_out=_held_out(held_out),
            seed=seed,
            size=size,
            keep=keep,
            limit_s=_LIMIT_S if rounds is None else None,
        )
    except DemoError as error:
        raise SimulatorError(str(error), SimulatorExitCode.USAGE) from None
    result = _run(options, as_json=as_json)
    if as_json:
        sys.stdout.write(json.dumps(result.summary()) + "\n")


def _held_out(by: str) -> HeldOutBy:
    if by not in get_args(HeldOutBy):
        raise DemoError(f"--held-out is {by!r}; phone or user was expected.")
    return "user" if by == "user" else "phone"


def _run(options: DemoOptions, *, as_json: bool) -> "DemoResult":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from keyflock_client_sim.cache_folder import user_cache_folder
    from keyflock_client_sim.console import make_console
    from keyflock_client_sim.corpora.text import CorpusError
    from keyflock_client_sim.demo.display import Display
    from keyflock_client_sim.demo.folder import demo_folder
    from keyflock_client_sim.demo.run import run_demo
    from keyflock_client_sim.demo.verdict import print_verdict
    from keyflock_client_sim.server_control.server_process import ServerStartError
    from keyflock_client_sim.training.pool import JobError
    from keyflock_client_sim.training.process import WorkerDiedError
    from keyflock_server.protocol.operator_client import OperatorError

    console = make_console(stderr=as_json)
    try:
        with demo_folder(options.keep) as folder:
            folder.claim(options)
            result = run_demo(
                options,
                folder,
                Display(console),
                cache=user_cache_folder(os.environ),
                clock=time.monotonic,
            )
    except (DemoError, CorpusError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.INPUT) from error
    except BrokenPipeError:  # the reader of the output has left
        raise
    except (ServerStartError, OperatorError, ConnectionError, JobError, WorkerDiedError) as error:
        raise SimulatorError(str(error), SimulatorExitCode.FAILED) from error
    print_verdict(result, console)
    console.print(f"learning curve        {_picture(result, options.keep)}", soft_wrap=True)
    return result


def _picture(result: "DemoResult", keep: Path | None) -> str:
    """Draw the learning curve; return where it is, or why it is not there."""
    try:
        from keyflock_client_sim.demo.learning_curve import save_learning_curve
    except ImportError:
        return "not drawn: matplotlib is missing (it comes with keyflock[demo])"
    folder = keep or Path(tempfile.mkdtemp(prefix="keyflock-demo-"))
    path = folder / "learning_curve.png"
    save_learning_curve(result, path)
    return str(path)

"""``keyflock-sim demo``: the main job, end to end, on this machine."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from keyflock_client_sim.cli.failures import CommandError, ExitCode
from keyflock_client_sim.demo.options import BUILTIN, DemoError, DemoOptions

_DEFAULTS = DemoOptions()


def demo(
    data: Annotated[
        str, typer.Option(help="The phones' text: shakespeare, or a .jsonl(.gz) of users with their messages.")
    ] = _DEFAULTS.data,
    pretrain: Annotated[
        str,
        typer.Option(
            help="What version 0 learned from: builtin (a public third of the text), none, a corpus file, or a "
            ".safetensors checkpoint to start from.",
            metavar="FILE|builtin|none",
        ),
    ] = BUILTIN,
    devices: Annotated[int, typer.Option(help="Phones.")] = _DEFAULTS.devices,
    rounds: Annotated[
        int | None,
        typer.Option(help="Rounds.", show_default="as many as fit in four minutes"),
    ] = None,
    goal: Annotated[int, typer.Option(help="Reports that close a round.")] = _DEFAULTS.goal,
    seed: Annotated[int, typer.Option(help="Decides who holds what, who drops out, and when.")] = _DEFAULTS.seed,
    size: Annotated[str, typer.Option(help="Of the model: full, medium, small, tiny.")] = _DEFAULTS.size,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep everything in this folder; run again with it to go on.", show_default="nothing"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line; the rest goes to stderr.")
    ] = False,
) -> None:
    """Phones learn together over HTTP: a server of its own, a fleet, rounds, and a verdict."""

"""The command ``keyflock-sim`` makes a first model, measures it, and trains it on simulated phones."""

from keyflock_client_sim.cli.application import main

__all__ = ["main"]

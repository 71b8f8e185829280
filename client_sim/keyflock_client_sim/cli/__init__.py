"""The command ``keyflock-sim``: make a first model, measure it, and let simulated phones learn."""

from keyflock_client_sim.cli.application import main

__all__ = ["main"]

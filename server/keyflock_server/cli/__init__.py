"""The command ``keyflock``: it runs a server, and lets operators manage populations, tasks and rounds."""

from keyflock_server.cli.application import main

__all__ = ["main"]

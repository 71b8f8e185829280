"""The command ``keyflock``: serve, and an operator's view of tasks and rounds."""

from keyflock_server.cli.application import main

__all__ = ["main"]

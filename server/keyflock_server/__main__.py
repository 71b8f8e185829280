"""Runs the command ``keyflock`` as ``python -m keyflock_server``."""

from keyflock_server.cli import main

main()

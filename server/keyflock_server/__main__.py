"""``python -m keyflock_server``: the command ``keyflock``."""

from keyflock_server.cli import main

main()

"""The parts of the server that simulators use besides its protocol: the one exception to that rule.

A simulation in virtual time runs the whole server in its own process, and a measurement of compression sums
reports without a store or a clock.
"""

from keyflock_server.aggregation.in_memory_training import InMemoryTraining
from keyflock_server.bootstrap import build_socketless_server
from keyflock_server.runtime.socketless_server import SocketlessServer

__all__ = ["InMemoryTraining", "SocketlessServer", "build_socketless_server"]

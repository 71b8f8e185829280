"""This package is a phone's side of the protocol as a state machine that does no I/O.

Begin with ``states`` (the table), then ``machine.Device``. Nothing here reads a clock, opens a socket, waits,
or draws a random number that it was not given. So the same files serve a fleet over HTTP, a simulation in
virtual time, and the author of a phone's SDK, who may port them line by line.

Source: the shape of h11, a protocol without I/O; the device of Bonawitz et al. 2019, arXiv:1902.01046, §3.
"""

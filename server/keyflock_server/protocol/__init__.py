"""The protocol between phones and the server: messages, problem documents and their encoding.

The package is pure: no I/O, no clock, no server state. Phones (the simulator, SDK conformance tests) may
import this package and no other part of the server. Begin with ``messages``; ``calls`` is the table of
endpoints.
"""

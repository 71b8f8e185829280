"""What phones and the server say to each other: messages, refusals, problems and the bytes they travel in.

Pure: no I/O, no clock, no server state. Phones (the simulator, SDK conformance tests) may import this
package and no other part of the server. Begin with ``messages``; ``calls`` is the table of endpoints.
"""

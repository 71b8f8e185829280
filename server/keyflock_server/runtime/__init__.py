"""The server as a process: what starts it, keeps it running, says how it is, and stops it in bounded time.

server             the life of a server with its two ports
socketless_server  the same endpoints inside the caller's event loop, without sockets
listeners          binds a port and serves an application on it
addresses          the file that says where a running server listens
lifecycles         several parts that are started, driven and stopped together
numeric_libraries  imports JAX once the server is ready and has rounds to close
heartbeat          the loop that drives deadlines, flushes and closing rounds
load               how far the process is beyond its capacity
probes             health, readiness and metrics for load balancers and Prometheus
event_loop         runs the server, and ends the process in bounded time
"""

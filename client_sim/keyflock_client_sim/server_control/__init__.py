"""This package starts a server in a process of its own, and operates it over the admin API.

The demo and the load tests share it. Light on purpose: a child process imports this package before it becomes
the server.
"""

"""The main job, end to end on one machine: a server of its own, a fleet of phones, rounds, a verdict.

Begin with ``run``. ``server_process`` and ``admin_client`` also serve the load tests. Light on purpose: a
child process imports this package before it becomes the server.
"""

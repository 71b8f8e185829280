"""The demo runs federated training end to end on one machine: a server, a fleet of phones, rounds, a verdict.

Begin with ``run``. What it shares with experiments is in ``training_setup``, and the server's process in
``server_control``.
"""

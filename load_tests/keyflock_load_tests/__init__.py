"""Open-loop load against a real server process on this machine. Begin with ``scenario`` and ``scenarios``."""

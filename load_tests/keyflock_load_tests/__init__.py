"""Open-loop load against a real server."""

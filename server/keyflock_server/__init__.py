"""The server that phones report to."""

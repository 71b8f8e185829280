"""Ports, paths and pools: what changes neither the mathematics nor a guarantee; the environment is read once."""

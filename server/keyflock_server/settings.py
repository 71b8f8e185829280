"""Ports, paths and pools: nothing here changes the mathematics or a guarantee. The environment is read once."""

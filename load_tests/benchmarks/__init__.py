"""Measurements whose figures and pictures stand in BENCHMARKS.md; each has a command, ``make bench-...``.

No benchmark is a test: none passes or fails. ``tests/unit/benchmarks`` tests the code that they share.
"""

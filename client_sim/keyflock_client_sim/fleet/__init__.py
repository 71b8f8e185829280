"""A population of phones that differ: in data, speed, network, hours and luck; all of it drawn from one seed.

Begin with ``profiles`` (what a population is like), then ``population.make``. A phone's traits depend on the
seed and on its own name only, so a larger fleet has the same phones and some more.
"""

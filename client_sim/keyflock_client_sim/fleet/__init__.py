"""Simulated phones differ in data, speed, network, hours and failures; all of it is drawn from one seed.

Begin with ``profiles`` (the traits of a population), then ``population.make_fleet``. A phone's traits depend
on the seed and on its own name only, so a larger fleet has the same phones and some more.
"""

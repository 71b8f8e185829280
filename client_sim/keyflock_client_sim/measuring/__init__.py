"""This package measures how good a model version is for users who took no part in its training.

``evaluation`` measures a version or a baseline on held-out users in the worker pool, ``scorers`` defines what
can be measured, ``report`` compares figures and says whether a gain is more than chance.
"""

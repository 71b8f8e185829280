"""How good a model version is for people who took no part in making it.

``evaluation`` measures a version or a baseline on held-out users in the worker pool, ``scorers`` says what
can be measured, ``report`` puts figures beside each other and says whether a gain is more than luck.
"""

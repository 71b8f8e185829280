"""How good a model version is for people who took no part in making it.

``evaluation`` measures a version on held-out users in the worker pool, ``baselines`` what counting words
would have given, ``comparison`` whether a gain is more than luck; ``report`` prints it, ``picture`` draws it.
"""

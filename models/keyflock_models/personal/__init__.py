"""Personalisation: what one user's keyboard learns by itself, and when it is shown.

    words      a user's own words outside the public vocabulary
    history    the counts of what the user typed: the interpolated n-gram and the recency cache
    blend      the experts' weights, learned from predictions made before the word was seen
    head       a fitted adapter on one trunk; head_fitting fits it, head_mapping carries it to the next trunk,
               head_trust says how far it is trusted there
    gate       whether the blend is shown at all: only when it has proved that it does no harm
    evidence   the vector that a phone reports to its population, and the priors that the mean of many gives
    personal_model   one user's model, message by message: predict, compare, then learn

What runs at every word on a phone is NumPy and plain Python, with no I/O and no clock; no text is stored
beyond single words.
"""

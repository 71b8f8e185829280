"""What one user's keyboard learns for itself: counted and fitted experts, their blend, and the gate over it.

    words      a user's own words outside the public vocabulary
    history    what the user typed, counted: the interpolated n-gram and the recency cache
    blend      how much each expert is believed, learned from predictions made before the word was seen
    head       a fitted adapter on one trunk; head_fitting fits it, head_mapping carries it to the next trunk,
               head_standing says how far it is trusted there
    gate       whether the blend is shown at all: only when it has proved that it does no harm
    evidence   what a phone says of all this to its population, and what the mean of many says
    typist     one user, sentence by sentence: predict, compare, then learn

All of it is NumPy and plain Python, because it runs at every word on a phone; no I/O, no clock, no text is
kept beyond single words.
"""

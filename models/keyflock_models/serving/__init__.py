"""Suggestions for many users at once: what a server computes when a keyboard asks it.

trunk_batch  the network over a batch of contexts: one compiled program for each shape
profile      one user's personal model, laid out for lookups
vocabulary_index  words by their first letters, and which may be shown
suggesting   a batch of questions to a batch of answers
"""

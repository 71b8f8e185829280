"""Suggestions for many users at once: what a server computes when keyboards ask it.

batched_trunk     the network over a batch of contexts, with one compiled program for each shape
trunk_predictions what the network predicts for a batch, and the shapes of batches
profile           one user's personal model, laid out for look-ups
history_index     a user's history as sorted arrays
vocabulary_index  words by their first letters, and which of them may be shown
typed_words       the blend's probabilities of the words that users have typed
suggesting        the suggestions for a batch of queries
"""

"""Next words for keyboards that ask the server: many users' questions in one pass over the network.

service    one question to one answer
batching   questions wait for the pass at hand, never longer
profiles   the users' models, the most recent in memory
released   the network that keyboards should serve, compiled before it answers
blocked    words that are never shown
"""

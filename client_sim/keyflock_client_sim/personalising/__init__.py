"""What personalisation is worth: a keyboard learns from its user's earlier messages, the later ones judge.

arms      what is compared: the trunk, each expert alone, blends
typist    one user: learn, then be judged on what comes later
jobs      some users, as a job for a worker
trunk     the shared model, federated on other users of the same text
figures   all users: means, shares, intervals
report    the table, the JSON line; pictures draws
"""

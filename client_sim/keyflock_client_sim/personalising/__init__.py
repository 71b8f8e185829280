"""What personalisation is worth: a keyboard learns from its user's earlier messages, the later ones judge.

users            who is measured, and where a user's text is cut in time
reader           the trunk as a user's phone has it
learning         one user's messages in their order: judge, learn, fit the head
arms             what is compared: the trunk, each expert alone, blends
typist           one user: learn, then be judged on what comes later
jobs, measuring  users as jobs for workers, and all of them
figures          means, shares, intervals; report prints them, pictures draws
evidence_job, personal_trainer  what a phone tells a ``personalize`` round, and nothing else
"""

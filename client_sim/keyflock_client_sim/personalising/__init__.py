"""This package personalises a simulated phone: a keyboard learns from its user's messages.

reader            the trunk as a user's phone has it
learning          one user's messages in their order: judge, learn, fit the head
evidence_job, personal_trainer  what a phone reports to a ``personalize`` round, and nothing else

How much it gives is measured by ``experiments.personalisation``.
"""

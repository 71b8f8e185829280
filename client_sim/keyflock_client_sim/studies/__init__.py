"""Measurements for ML engineers that take minutes: a trunk of other users first, then each user on their own.

personalise  what personal models are worth, and whether they ever harm (``keyflock-sim personalise``)
drift        what becomes of heads while the trunk moves on (``keyflock-sim drift``)
trunk        the shared model, federated on other users of the same text; both stand on it
"""

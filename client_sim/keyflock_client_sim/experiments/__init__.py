"""Experiments are measurements for ML engineers that take minutes; each is a package and a command.

compression      what smaller reports cost in recall
modes            synchronous rounds against buffered asynchronous ones
personalisation  what personal models are worth, and whether they ever harm
drift            what heads are worth while the trunk under them changes
federated_trunk  the shared model of the last two, trained on other users of the same text
"""

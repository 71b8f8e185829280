"""This experiment measures heads while the trunk under them changes (``keyflock-sim drift``)."""

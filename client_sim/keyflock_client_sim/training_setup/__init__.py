"""What demo and experiments start from: the text of phones and held-out users, version 0, and a task."""

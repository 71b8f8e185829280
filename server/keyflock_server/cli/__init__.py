"""The command ``keyflock``: serve, and an operator's view of tasks and rounds."""

"""This experiment measures what smaller reports cost in recall (``keyflock-sim compression``)."""

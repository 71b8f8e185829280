"""This experiment compares synchronous rounds with buffered asynchronous ones (``keyflock-sim modes``)."""

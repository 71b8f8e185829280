"""The clock that storage and its callers are given: a function that returns the time."""

from collections.abc import Callable
from datetime import datetime

#: A function that returns the current time, aware UTC.
Clock = Callable[[], datetime]

"""The choices of an operator about logs."""

from typing import Literal

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

"""A failed command prints one line on standard error, and ends with a code that a script can tell apart."""

from enum import IntEnum


class SimulatorExitCode(IntEnum):
    """The exit codes of a command; the numbers are those of the command ``keyflock``."""

    OK = 0
    #: The command line itself is wrong.
    USAGE = 2
    #: No server answers there, or it refused.
    UNREACHABLE = 3
    #: A file is missing or wrong: a corpus, a checkpoint, a state.
    INPUT = 5
    #: Something failed while running.
    FAILED = 7
    INTERRUPTED = 130


class SimulatorError(Exception):
    """A command failed in a way that its user can act on.

    Args:
        message: One line: what is wrong, and what to do.
        code: The process's exit code.
    """

    def __init__(self, message: str, code: SimulatorExitCode) -> None:
        super().__init__(message)
        self.code = code

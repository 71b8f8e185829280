"""How a command says that it failed: one line on standard error and a code that a script can tell apart."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with; the numbers are those of the command ``keyflock``."""

    OK = 0
    #: The command line itself is wrong.
    USAGE = 2
    #: No server answers there, or it said no.
    UNREACHABLE = 3
    #: A file is missing or wrong: a corpus, a checkpoint, a state.
    INPUT = 5
    #: Something failed while running.
    FAILED = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command failed in a way that its user can act on.

    Args:
        message: One line: what is wrong, and what to do.
        code: What the process ends with.
    """

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code

"""How a command says that it failed: one line on standard error and a code that a script can tell apart."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    #: The server said no, and why.
    REFUSED = 1
    #: The command line itself is wrong.
    USAGE = 2
    #: No server answers there.
    UNREACHABLE = 3
    #: The token is missing or not this server's.
    CREDENTIALS = 4
    #: A local file is missing or wrong.
    INPUT = 5
    #: The server cannot start: port, data folder, secret or setting.
    CANNOT_START = 6
    #: The server failed while running.
    FAILED = 7
    #: The database or the blob store is damaged: restore the backup.
    DAMAGED = 8
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

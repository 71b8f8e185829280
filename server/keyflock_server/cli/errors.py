"""How a command fails: with a line on standard error, one more for each of several problems, and a code."""

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    #: The server refused the call.
    REFUSED = 1
    #: The command line itself is wrong.
    USAGE = 2
    #: No server answers at that address.
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
    """A command failed in a way that its user can mend.

    Args:
        message: One line: what is wrong, and what to do.
        code: The exit code of the process.
        problems: Further lines, one for each of several problems.
        is_temporary: Whether the same command may succeed soon: the server is away, starts or is overloaded.
    """

    def __init__(
        self, message: str, code: ExitCode, problems: Sequence[str] = (), *, is_temporary: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.problems = tuple(problems)
        self.is_temporary = is_temporary or code is ExitCode.UNREACHABLE

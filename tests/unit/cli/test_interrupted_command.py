"""A command that waits for a server ends at Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from typing import Final

#: A shell starts its background jobs with SIGINT ignored, and Python leaves it so; a terminal does not.
_PROGRAM: Final = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from keyflock_server.cli import main
main()
"""


def test_a_command_whose_server_does_not_answer_ends_at_once_when_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = ["-c", _PROGRAM, "task", "list", "--url", url]
        environment = {**os.environ, "KEYFLOCK_ADMIN_TOKEN": "token"}
        with subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE) as process:
            connection, _ = listening.accept()
            assert connection.recv(10_000).startswith(b"GET /admin/v1/tasks?")

            process.send_signal(signal.SIGINT)

            # The call itself would wait for a minute.
            assert process.wait(30.0) == 130
            connection.close()

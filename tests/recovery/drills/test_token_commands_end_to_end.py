"""Tokens on a real server over SQLite: created, used, listed and revoked by commands, and audited."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from keyflock_client_sim.server_control.server_process import ServerProcess, running_server


def keyflock(server: ServerProcess, *arguments: str, token_file: Path | None = None) -> Any:  # noqa: ANN401 - JSON
    """Run a command against the server; return its JSON, or the line that it ends with."""
    who = ["--data-dir", str(server.data_dir)]
    if token_file is not None:
        who = ["--url", server.admin_url, "--token-file", str(token_file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYFLOCK_")}
    ran = subprocess.run(
        [sys.executable, "-m", "keyflock_server", *arguments, *who, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    return json.loads(ran.stdout) if ran.returncode == 0 else f"{ran.returncode}: {ran.stderr}"


def test_a_token_is_created_used_and_revoked_by_commands(tmp_path: Path) -> None:
    saved = tmp_path / "ci.token"
    order = ("token", "create", "ci", "--role", "viewer", "--expires", "1h", "--reason", "The build.")

    with running_server(tmp_path / "data") as server:
        created = keyflock(server, *order, "--save", str(saved))
        used = keyflock(server, "token", "whoami", token_file=saved)
        too_weak = keyflock(server, "token", "list", token_file=saved)
        id_ = created["token"]["id"]
        revoked = keyflock(server, "token", "revoke", id_, "--reason", "Done.")
        void = keyflock(server, "token", "whoami", token_file=saved)
        listed = keyflock(server, "token", "list")

    secret = saved.read_text().strip().rpartition("_")[2].encode()
    assert used == {"name": "ci", "role": "viewer"}
    assert too_weak.startswith("4: keyflock: ")
    assert "role_too_weak" in too_weak
    assert revoked["state"] == "revoked"
    assert void == "4: keyflock: This token was revoked; an admin creates another one. (token_invalid)\n"
    assert [(one["id"], one["state"]) for one in listed["items"]] == [(id_, "revoked")]
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path.name for path in files if secret in path.read_bytes()] == []

"""``keyflock model``: versions are listed, compared and saved; and every call of the API has a command."""

import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

import keyflock_server.cli
from keyflock_server.protocol.operator.table import OPERATOR_CALLS

__all__ = ["admin_port", "run", "token_file"]  # fixtures

#: What a browser is for.
WITHOUT_COMMAND = {"openapi", "docs"}


@pytest.fixture
def model(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> Callable[..., CommandResult]:
    """Runs ``keyflock model`` against the stand-in."""

    def ran(*arguments: str | Path) -> CommandResult:
        return run("model", *arguments, "--url", admin_port.url, "--token-file", token_file)

    return ran


def test_versions_are_listed(model: Callable[..., CommandResult], admin_port: StandInAdminPort) -> None:
    admin_port.answer = json.dumps({"items": [{"version": 3, "parent": 2}], "next": None}).encode()

    listed = model("list", "en-US")

    assert [line.split()[:2] for line in listed.out.splitlines()] == [["version", "parent"], ["3", "2"]]
    assert admin_port.asked[0][1] == "/admin/v1/populations/en-US/versions?limit=1000"


def test_two_versions_are_compared_tensor_by_tensor(
    model: Callable[..., CommandResult], admin_port: StandInAdminPort
) -> None:
    tensor = {"name": "embedding", "shape": [12, 2], "base_norm": 4.0, "distance": 0.5}
    answer = {"distance": 0.5, "max_difference": 0.25, "tensors": [tensor], "version": {}, "base": {}}
    admin_port.answer = json.dumps(answer).encode()

    shown, as_json = model("compare", "en-US", "3", "0"), model("compare", "en-US", "3", "0", "--json")

    assert admin_port.asked[0][1] == "/admin/v1/populations/en-US/versions/3/comparison?base=0"
    assert shown.out.splitlines()[0].split() == ["distance", "0.5"]
    assert shown.out.splitlines()[-1].split() == ["embedding", "12,", "2", "4", "0.5"]
    assert json.loads(as_json.out) == answer


def test_a_version_is_saved_into_a_new_file_only(
    model: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    admin_port.answer = bytes(range(256))
    file = tmp_path / "version-3.safetensors"

    first, again = model("save", "en-US", "3", file), model("save", "en-US", "3", file)

    assert (first.code, again.code) == (0, 5)
    assert file.read_bytes() == bytes(range(256))
    assert "is there already" in again.err


def test_what_phones_download_is_saved_too(
    model: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    admin_port.answer = b"a container"

    model("save", "en-US", "3", tmp_path / "file", "--download", "released")

    assert admin_port.asked[0][1] == "/admin/v1/populations/en-US/versions/3/download?weights=released"
    assert (tmp_path / "file").read_bytes() == b"a container"


def test_a_version_that_is_not_there_leaves_no_file(
    model: Callable[..., CommandResult], admin_port: StandInAdminPort, tmp_path: Path
) -> None:
    admin_port.status = 404

    ended = model("save", "en-US", "9", tmp_path / "file")

    assert ended.code == 1
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("command", ["pin", "unpin"])
def test_a_pin_takes_a_reason(
    model: Callable[..., CommandResult], admin_port: StandInAdminPort, command: str
) -> None:
    ended = model(command, "en-US", "3", "--reason", "the summer's best")

    assert ended.code == 0
    assert admin_port.asked[0][:2] == ("POST", f"/admin/v1/populations/en-US/versions/3/{command}")
    assert json.loads(admin_port.asked[0][3]) == {"reason": "the summer's best"}


def test_every_call_of_the_operator_api_has_a_command() -> None:
    modules = [
        importlib.import_module(f"keyflock_server.cli.{found.name}")
        for found in pkgutil.iter_modules(keyflock_server.cli.__path__)
    ]
    used = {id(value) for module in modules for value in vars(module).values()}

    missing = {call.name for call in OPERATOR_CALLS if id(call) not in used}

    assert missing == WITHOUT_COMMAND

"""Settings: an option over the environment over a default, and a wrong one named by where it came from."""

from pathlib import Path

import pytest

from keyflock_server.cli.errors import ExitCode
from keyflock_server.data_folder import DataFolder, DataFolderError
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.settings import Settings, SettingsError

PAGE = (Path(__file__).parents[3] / "server" / "README.md").read_text()


def test_an_option_wins_over_the_environment_and_that_over_the_default() -> None:
    environment = {"KEYFLOCK_PORT": "1000", "KEYFLOCK_ADMIN_PORT": "1001", "KEYFLOCK_ACK_WAIT_S": "2.5"}

    settings = Settings.read({"data_dir": Path("d"), "port": 5, "admin_port": None}, environment)

    assert (settings.port, settings.admin_port, settings.ack_wait_s) == (5, 1001, 2.5)
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "http"),
        ("TICK_S", "0"),
        ("ACK_WAIT_S", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("MAX_BODIES_IN_FLIGHT", "0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"KEYFLOCK_{name}"):
        Settings.read({"data_dir": Path("d")}, {f"KEYFLOCK_{name}": value})


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key", "admin_tls_certificate", "admin_tls_key"])
def test_a_certificate_without_its_key_and_a_key_without_its_certificate_are_refused(given: str) -> None:
    other = (
        given.replace("key", "certificate") if given.endswith("key") else given.replace("certificate", "key")
    )
    words = f"--{given} is given without --{other}".replace("_", "-")

    with pytest.raises(SettingsError, match=words):
        Settings.read({"data_dir": Path("d")}, {f"KEYFLOCK_{given.upper()}": "file.pem"})


def test_names_of_the_operators_port_are_separated_by_commas() -> None:
    read = Settings.read({"data_dir": Path("d")}, {"KEYFLOCK_ADMIN_NAMES": "Ops.example.com, ops2 ,"})

    assert read.admin_names == ("ops.example.com", "ops2")


def test_every_setting_is_on_the_servers_page() -> None:
    assert [name for name in Settings.__dataclass_fields__ if f"`{name}`" not in PAGE] == []


def test_every_exit_code_is_on_the_servers_page() -> None:
    assert [code for code in ExitCode if f"| {code.value} |" not in PAGE] == []


def test_the_task_on_the_servers_page_can_be_run() -> None:
    example = PAGE.split("```toml\n")[1].split("```")[0]

    task = parse_task(example)

    assert (task.name, task.round.slots) == ("next-word", 130)


def test_a_data_folder_is_for_one_server_at_a_time(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path / "d")

    with pytest.raises(DataFolderError, match="in use by another server"):
        DataFolder.open(tmp_path / "d")
    first.release()
    DataFolder.open(tmp_path / "d").release()


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DataFolderError, match="file"):
        DataFolder.open(tmp_path / "file" / "d")


@pytest.mark.fault("D12")
def test_trusted_proxies_are_networks_with_commas_between() -> None:
    settings = Settings.read(
        {"data_dir": Path("d")}, {"KEYFLOCK_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1,fd00::/8"}
    )

    assert [str(one) for one in settings.trusted_proxies] == ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]
    with pytest.raises(SettingsError, match="KEYFLOCK_TRUSTED_PROXIES"):
        Settings.read({"data_dir": Path("d")}, {"KEYFLOCK_TRUSTED_PROXIES": "the proxy"})

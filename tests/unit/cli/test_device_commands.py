"""``keyflock device``: who is kept out, why, and how that is changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures

OUT = {
    "id": "phone-1",
    "population": "en-US",
    "is_quarantined": True,
    "quarantined_until": "2026-03-04T12:00:00Z",
    "reason": "Refused reports in 3 of its rounds within 7 days: malformed, malformed, non_finite.",
    "app_build": 5,
    "locale": "en-US",
    "last_seen_at": "2026-03-01T12:00:00Z",
}
IN = OUT | {"id": "phone-2", "is_quarantined": False, "quarantined_until": None, "reason": ""}


def test_the_list_names_the_reason_in_words(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"items": [OUT, IN], "next": None}).encode()

    ran = run("device", "list", "en-US", "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][:2] == ("GET", "/admin/v1/populations/en-US/devices?limit=1000")
    assert "Refused reports in 3 of its rounds within 7 days" in ran.out
    assert "phone-2" in ran.out


def test_only_the_quarantined_are_listed_when_asked_for(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"items": [OUT, IN], "next": None}).encode()

    ran = run(
        "device",
        "list",
        "en-US",
        "--quarantined",
        "--json",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )

    assert admin_port.asked[0][1].endswith("?limit=1000&quarantined=true")
    assert json.loads(ran.out)["items"] == [OUT, IN]


def test_one_device_is_shown_field_by_field(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(OUT).encode()

    ran = run("device", "show", "phone-1", "--url", admin_port.url, "--token-file", token_file)

    assert admin_port.asked[0][:2] == ("GET", "/admin/v1/devices/phone-1")
    assert "2026-03-04 12:00:00" in ran.out


def test_a_quarantine_carries_its_reason_and_its_days(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(OUT).encode()

    run(
        "device",
        "quarantine",
        "phone-1",
        "--reason",
        "A test.",
        "--days",
        "2",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )  # fmt: skip - one option and its value belong together

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/devices/phone-1/quarantine")
    assert json.loads(body) == {"reason": "A test.", "days": 2.0}


def test_a_quarantine_needs_a_reason(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    ran = run("device", "quarantine", "phone-1", "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 2
    assert admin_port.asked == []


def test_a_release_is_one_call(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(IN).encode()

    run(
        "device",
        "release",
        "phone-2",
        "--reason",
        "a test",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )

    assert admin_port.asked[0][:2] == ("POST", "/admin/v1/devices/phone-2/release")


@pytest.mark.fault("D6")
def test_a_revocation_is_one_call(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps(IN).encode()

    ran = run(
        "device",
        "revoke",
        "phone-2",
        "--reason",
        "a test",
        "--url",
        admin_port.url,
        "--token-file",
        token_file,
    )

    assert admin_port.asked[0][:2] == ("POST", "/admin/v1/devices/phone-2/revoke")
    assert "phone-2" in ran.out


def test_a_device_is_forgotten_by_one_call_with_its_reason(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.answer = json.dumps({"id": "phone-2", "personal_models": 1, "is_scrubbed": True}).encode()

    ran = run(
        *("device", "forget", "phone-2", "--reason", "its user asked"),
        *("--url", admin_port.url, "--token-file", token_file),
    )

    method, path, _, body = admin_port.asked[0]
    assert (method, path) == ("POST", "/admin/v1/devices/phone-2/forget")
    assert json.loads(body) == {"reason": "its user asked"}
    assert "phone-2" in ran.out

"""A port's certificate: what is wrong with its files is said, and new ones are used if they fit."""

import asyncio
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.services.certificates import EXPIRES_AT, Authority

from keyflock_server.runtime.certificate_watch import LOOK_INTERVAL_S, STUCK_AFTER_S, CertificateWatch
from keyflock_server.runtime.certificates import (
    CertificateError,
    CertificateFiles,
    Reload,
    ServerCertificate,
)
from keyflock_server.telemetry.metrics import Metrics

NEW_END = datetime(2101, 1, 1, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.in_folder(tmp_path)


def reloads(certificate: ServerCertificate, times: int) -> list[Reload]:
    return [certificate.reload() for _ in range(times)]


def make_newer(*paths: Path) -> None:
    """Make files whose content may be written within one tick of the file system's clock look changed."""
    for path in paths:
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))


def test_a_certificate_and_its_key_are_loaded_with_the_time_of_their_end(
    authority: Authority, tmp_path: Path
) -> None:
    certificate = ServerCertificate(authority.issue(tmp_path))

    assert certificate.expires_at == EXPIRES_AT
    assert certificate.context.minimum_version.name == "TLSv1_2"


def test_one_file_may_hold_both(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    files.key.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())

    assert ServerCertificate(CertificateFiles(files.key, files.key)).expires_at == EXPIRES_AT


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_a_missing_file_is_named(authority: Authority, tmp_path: Path, name: str) -> None:
    files = authority.issue(tmp_path)
    path: Path = getattr(files, name)
    path.unlink()

    with pytest.raises(CertificateError, match=rf"{name} in .*{path.name} cannot be read: No such file"):
        ServerCertificate(files)


def test_files_that_were_mixed_up_are_named(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)

    with pytest.raises(CertificateError, match=r"server\.key holds no certificate"):
        ServerCertificate(CertificateFiles(files.key, files.certificate))


def test_a_key_in_another_form_is_named(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    files.key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nQUJD\n-----END OPENSSH PRIVATE KEY-----\n")

    with pytest.raises(CertificateError, match=r"server\.key holds no private key in PEM form"):
        ServerCertificate(files)


def test_an_encrypted_key_is_refused_with_the_command_that_decrypts_it(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue(tmp_path, passphrase=b"correct horse")

    with pytest.raises(CertificateError, match=r"is encrypted.*openssl pkey -in"):
        ServerCertificate(files)


def test_a_key_of_another_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    (tmp_path / "other").mkdir()
    other = authority.issue(tmp_path / "other")

    with pytest.raises(CertificateError, match="is not the key of the certificate"):
        ServerCertificate(CertificateFiles(files.certificate, other.key))


@pytest.mark.parametrize(("mode", "is_taken"), [(0o600, True), (0o640, True), (0o644, False)])
def test_a_key_may_be_read_by_a_group_and_not_by_all(
    authority: Authority, tmp_path: Path, mode: int, is_taken: bool
) -> None:
    files = authority.issue(tmp_path)
    files.key.chmod(mode)

    if is_taken:
        assert ServerCertificate(files).expires_at == EXPIRES_AT
    else:
        with pytest.raises(CertificateError, match=r"open to all users \(mode 0644\).*chmod o="):
            ServerCertificate(files)


def test_files_that_do_not_change_are_not_loaded_again(authority: Authority, tmp_path: Path) -> None:
    certificate = ServerCertificate(authority.issue(tmp_path))
    context = certificate.context

    assert reloads(certificate, 3) == [Reload.UNCHANGED] * 3
    assert certificate.context is context


def test_new_files_are_loaded_once_they_are_left_alone(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    certificate = ServerCertificate(files)

    authority.issue(tmp_path, expires_at=NEW_END)
    make_newer(files.certificate, files.key)

    assert reloads(certificate, 3) == [Reload.UNCHANGED, Reload.LOADED, Reload.UNCHANGED]
    assert certificate.expires_at == NEW_END


def test_a_link_that_leads_to_other_files_is_a_change(authority: Authority, tmp_path: Path) -> None:
    for name, end in (("old", EXPIRES_AT), ("new", NEW_END)):
        (tmp_path / name).mkdir()
        authority.issue(tmp_path / name, expires_at=end)
    link = tmp_path / "live"
    link.symlink_to("old")
    certificate = ServerCertificate(CertificateFiles(link / "server.pem", link / "server.key"))

    link.unlink()
    link.symlink_to("new")

    assert reloads(certificate, 2) == [Reload.UNCHANGED, Reload.LOADED]
    assert certificate.expires_at == NEW_END


def test_files_that_are_still_being_written_are_waited_for(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    certificate = ServerCertificate(files)
    old_key = files.key.read_bytes()

    authority.issue(tmp_path, expires_at=NEW_END)
    new_key = files.key.read_bytes()
    files.key.write_bytes(old_key)
    make_newer(files.certificate)
    first = certificate.reload()
    files.key.write_bytes(new_key)
    make_newer(files.key)

    assert (first, *reloads(certificate, 2)) == (Reload.UNCHANGED, Reload.UNCHANGED, Reload.LOADED)
    assert certificate.problem == ""


def test_a_pair_that_does_not_fit_keeps_the_old_one_until_it_is_mended(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue(tmp_path)
    certificate = ServerCertificate(files)
    context, old_key = certificate.context, files.key.read_bytes()

    authority.issue(tmp_path, expires_at=NEW_END)
    new_key = files.key.read_bytes()
    files.key.write_bytes(old_key)
    make_newer(files.certificate, files.key)
    broken = reloads(certificate, 3)
    in_use, problem = certificate.context, certificate.problem
    files.key.write_bytes(new_key)
    make_newer(files.key)
    make_newer(files.key)
    mended = reloads(certificate, 2)

    assert broken == [Reload.UNCHANGED, Reload.FAILED, Reload.UNCHANGED]
    assert in_use is context
    assert "is not the key of the certificate" in problem
    assert mended == [Reload.UNCHANGED, Reload.LOADED]
    assert (certificate.expires_at, certificate.problem) == (NEW_END, "")


def test_files_that_vanish_keep_the_old_one(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    certificate = ServerCertificate(files)

    shutil.move(files.certificate, tmp_path / "away.pem")

    assert reloads(certificate, 3) == [Reload.UNCHANGED, Reload.FAILED, Reload.UNCHANGED]
    assert certificate.expires_at == EXPIRES_AT


class WatchedPort:
    """A watch over one certificate, on clocks that a test moves."""

    def __init__(self, certificate: ServerCertificate, now: datetime, max_wait_s: float = 600.0) -> None:
        self.metrics = Metrics()
        self.now, self.now_s = now, 0.0
        self.watch = CertificateWatch(
            {"phones": certificate}, self.metrics, lambda: self.now, lambda: self.now_s, max_wait_s
        )

    async def wait_and_tick(self, after_s: float = LOOK_INTERVAL_S) -> None:
        self.now_s += after_s
        self.now += timedelta(seconds=after_s)
        await self.watch.tick()

    def figure(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"keyflock_tls_{name}", {"port": "phones"})


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.msg for record in caplog.records if record.name == "keyflock.server"]


async def test_the_metrics_say_when_a_certificate_ends_and_whether_the_files_can_be_used(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue(tmp_path)
    port = WatchedPort(ServerCertificate(files), EXPIRES_AT - timedelta(days=100))

    await port.watch.start()
    whole = port.figure("certificate_expiry_timestamp_seconds"), port.figure("certificate_files_unusable")
    files.key.write_text("broken")
    for _ in range(3):
        await port.wait_and_tick()

    assert whole == (EXPIRES_AT.timestamp(), 0.0)
    assert port.figure("certificate_files_unusable") == 1.0
    assert messages(caplog) == ["the renewed certificate cannot be used; the one before it is still shown"]
    assert "server.key holds no private key" in caplog.records[-1].__dict__["detail"]


async def test_the_files_are_looked_at_only_so_often(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(tmp_path)
    port = WatchedPort(ServerCertificate(files), EXPIRES_AT - timedelta(days=100))
    await port.wait_and_tick()

    files.key.write_text("broken")
    for _ in range(20):
        await port.wait_and_tick(after_s=LOOK_INTERVAL_S / 25)

    assert port.figure("certificate_files_unusable") == 0.0


@pytest.mark.parametrize(("days", "warnings"), [(16, 0), (13, 1), (-1, 1)])
async def test_a_certificate_that_ends_within_two_weeks_is_warned_of_once_a_day(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warnings: int
) -> None:
    port = WatchedPort(ServerCertificate(authority.issue(tmp_path)), EXPIRES_AT - timedelta(days=days))

    await port.watch.start()
    for _ in range(5):
        await port.wait_and_tick()
    first_day = len(messages(caplog))
    await port.wait_and_tick(after_s=86_400.0)

    assert first_day == warnings
    assert len(messages(caplog)) == 2 * warnings


class CertificateOnHungDisk(ServerCertificate):
    """A certificate whose files are on a disk that does not answer until it is told to."""

    def __init__(self, files: CertificateFiles) -> None:
        super().__init__(files)
        self.answers, self.is_over = threading.Event(), threading.Event()
        self.looks = 0

    def reload(self) -> Reload:
        self.looks += 1
        self.answers.wait()
        try:
            return super().reload()
        finally:
            self.is_over.set()


async def test_a_disk_that_does_not_answer_holds_up_no_pass_and_is_told_once(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = CertificateOnHungDisk(authority.issue(tmp_path))
    port = WatchedPort(certificate, EXPIRES_AT - timedelta(days=100), max_wait_s=0.0)
    await port.watch.start()
    caplog.set_level("INFO", "keyflock.server")

    await port.wait_and_tick()
    soon = port.figure("certificate_files_stuck"), messages(caplog)
    for _ in range(10):
        await port.wait_and_tick(after_s=STUCK_AFTER_S)
    late = port.figure("certificate_files_stuck"), messages(caplog), certificate.looks
    certificate.answers.set()
    certificate.is_over.wait()
    async with asyncio.timeout(60.0):
        while port.figure("certificate_files_stuck"):  # the thread hands its result over in an instant
            await asyncio.sleep(0)
            await port.wait_and_tick(after_s=0.0)

    stuck = "the certificate's files cannot be read: their disk does not answer"
    assert soon == (0.0, [])
    assert late == (1.0, [stuck], 1)
    assert messages(caplog) == [stuck, "the certificate's files can be read again"]
    await port.wait_and_tick()
    assert certificate.looks == 2


async def test_a_look_that_fails_in_a_new_way_fails_its_pass_and_the_next_one_looks_again(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = ServerCertificate(authority.issue(tmp_path))
    port = WatchedPort(certificate, EXPIRES_AT - timedelta(days=100))

    def fail() -> Reload:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(certificate, "reload", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            await port.wait_and_tick()
    await port.wait_and_tick()

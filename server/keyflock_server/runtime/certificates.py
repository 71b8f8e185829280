"""The certificate that a port shows: checked at the start, and exchanged while the server runs.

A certificate and its key are two files, which a renewal replaces one after the other. So what is on the disk
is used only when both have been left alone for a while and belong together; until then new connections get
what was loaded before. Connections that are open keep theirs.

Each load makes a new context. Loading a pair that does not match into the one in use would destroy it.
"""

import os
import shlex
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

_ALL_USERS: Final = stat.S_IRWXO
#: The form in which public keys are compared.
_SPKI: Final = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class CertificateError(Exception):
    """Fault of the operator: a certificate or its key cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The PEM file of a certificate and of those that lead to its authority, and the PEM file of its key."""

    certificate: Path
    key: Path


class Reload(Enum):
    """The outcome of ``ServerCertificate.reload``."""

    UNCHANGED = auto()
    LOADED = auto()
    FAILED = auto()


class ServerCertificate:
    """The certificate that a port shows to new connections.

    Args:
        files: Where it and its key are.
    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        # Before the files are read: what changes meanwhile is seen at the next look.
        self._tried = self._seen = _signature(files)
        self._context, self._expires_at = _load(files)
        #: Why the files, as they are now, cannot be used; empty if they can.
        self.problem = ""

    @property
    def context(self) -> ssl.SSLContext:
        """Return the context for the handshakes of new connections."""
        return self._context

    @property
    def expires_at(self) -> datetime:
        """Return the instant from which nobody accepts the certificate."""
        return self._expires_at

    def reload(self) -> Reload:
        """Load the files again if they have changed since they were last loaded, and not since the last call.

        Guarantees:
            Certificate, key and expiry change together, or not at all.
        """
        seen, self._seen = self._seen, _signature(self._files)
        if self._seen == self._tried or self._seen != seen:
            return Reload.UNCHANGED
        self._tried = self._seen
        try:
            self._context, self._expires_at = _load(self._files)
        except CertificateError as error:
            self.problem = str(error)
            return Reload.FAILED
        self.problem = ""
        return Reload.LOADED


def load_certificates(
    files: Mapping[str, tuple[Path | None, Path | None]],
) -> dict[str, ServerCertificate]:
    """Return the certificates of the ports that have one, by the port's label.

    Args:
        files: The certificate and the key of each port; None: the port speaks plain HTTP.
    Raises:
        CertificateError: the files of a port cannot be used.
    """
    return {
        port: ServerCertificate(CertificateFiles(certificate, key))
        for port, (certificate, key) in files.items()
        if certificate is not None and key is not None
    }


def _signature(files: CertificateFiles) -> tuple[object, ...]:
    """Return a value that differs when one of the files has been replaced or written."""
    return tuple(_state(path) for path in (files.certificate, files.key))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _load(files: CertificateFiles) -> tuple[ssl.SSLContext, datetime]:
    certificate = _certificate(files.certificate)
    if _public_key_of(files.key) != certificate.public_key().public_bytes(*_SPKI):
        raise CertificateError(
            f"The TLS key in {files.key} is not the key of the certificate in {files.certificate}."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise CertificateError(
            f"The TLS certificate in {files.certificate} cannot be used with its key: {reason}."
        ) from None
    return context, certificate.not_valid_after_utc


def _certificate(path: Path) -> Certificate:
    """Return the first certificate of a file: the server's own."""
    try:
        data, _ = _read(path, "certificate")
        return load_pem_x509_certificates(data)[0]
    except ValueError:
        raise CertificateError(f"{path} holds no certificate in PEM form.") from None


def _public_key_of(path: Path) -> bytes:
    data, mode = _read(path, "key")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(
            f"The TLS key in {path} is encrypted, and a server asks for no passphrase. "
            f"Decrypt it: openssl pkey -in {shlex.quote(str(path))} -out FILE"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} holds no private key in PEM form.") from None
    if mode & _ALL_USERS:
        raise CertificateError(
            f"The TLS key in {path} is open to all users (mode {mode:04o}). "
            f"Close it: chmod o= {shlex.quote(str(path))}"
        )
    return key.public_key().public_bytes(*_SPKI)


def _read(path: Path, noun: str) -> tuple[bytes, int]:
    """Return the content of a file and its mode."""
    try:
        with path.open("rb") as file:
            return file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise CertificateError(f"The TLS {noun} in {path} cannot be read: {error.strerror}.") from None

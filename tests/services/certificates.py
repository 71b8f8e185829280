"""Certificates for tests: an authority of their own, and certificates that it signs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from keyflock_server.runtime.certificates import CertificateFiles

ISSUED_AT = datetime(2020, 1, 1, tzinfo=UTC)
#: Long after any day on which the tests run.
EXPIRES_AT = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Authority:
    """An authority whose certificate is in a file."""

    file: Path
    name: x509.Name
    key: EllipticCurvePrivateKey

    @classmethod
    def in_folder(cls, folder: Path, name: str = "authority") -> "Authority":
        key, subject = generate_private_key(SECP256R1()), _name(name)
        certificate = (
            _builder(subject, subject, key, EXPIRES_AT)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        file = folder / f"{name}.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(file, subject, key)

    def issue(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        expires_at: datetime = EXPIRES_AT,
        passphrase: bytes | None = None,
    ) -> CertificateFiles:
        """Write a new certificate for an address, and its key, over those that the folder has."""
        key = generate_private_key(SECP256R1())
        certificate = (
            _builder(_name("server"), self.name, key, expires_at)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = CertificateFiles(folder / "server.pem", folder / "server.key")
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        files.key.touch(mode=0o600)
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, expires_at: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(ISSUED_AT, expires_at - timedelta(days=90)))
        .not_valid_after(expires_at)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

"""Authenticated encryption of one personal model: AES-256-GCM, a fresh nonce each time, bound to its owner.

If a row's bytes are moved to another user or population, decryption fails.

Source: NIST SP 800-38D; random 96-bit nonces are good for 2**32 models per key.
"""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyflock_server.personal_models.key_ring import EncryptionKey

_NONCE_BYTES: Final = 12


class DecryptionError(Exception):
    """Fault of the store: the bytes were encrypted with another key or for another owner, or were altered."""


def encrypt(key: EncryptionKey, associated_data: str, data: bytes) -> bytes:
    """Return the encrypted bytes: nonce, then ciphertext with its tag.

    Args:
        key: The current key.
        associated_data: Names the population and the owner; the same text is needed to decrypt.
        data: The encoded model.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key.secret).encrypt(nonce, data, associated_data.encode())


def decrypt(key: EncryptionKey, associated_data: str, sealed: bytes) -> bytes:
    """Return the bytes that ``encrypt`` was given.

    Raises:
        SealBroken: another key, another owner, or altered bytes.
    """
    try:
        return AESGCM(key.secret).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated_data.encode()
        )
    except (InvalidTag, ValueError):
        raise DecryptionError from None

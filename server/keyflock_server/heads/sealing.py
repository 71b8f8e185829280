"""One head, encrypted and authenticated: AES-256-GCM, a fresh nonce each time, bound to its place.

Whoever moves a row's bytes to another user or population gets an error, not the other's words.

Source: NIST SP 800-38D; random 96-bit nonces are good for 2**32 heads a key.
"""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyflock_server.heads.key_ring import HeadKey

_NONCE_BYTES: Final = 12


class SealBroken(Exception):
    """Fault of the store: the bytes were not sealed with this key for this place, or were changed since."""


def seal(key: HeadKey, place: str, data: bytes) -> bytes:
    """The sealed bytes: nonce, then ciphertext with its tag.

    Args:
        key: The current one.
        place: Whose it is; must be given again to open.
        data: The head.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key.secret).encrypt(nonce, data, place.encode())


def opened(key: HeadKey, place: str, sealed: bytes) -> bytes:
    """Back from `seal`.

    Raises:
        SealBroken: another key, another place, or altered bytes.
    """
    try:
        return AESGCM(key.secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError):
        raise SealBroken from None

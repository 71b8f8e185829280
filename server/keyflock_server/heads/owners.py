"""Whose head it is: the user's, when the phone named one, or else the phone's; by keyed digests alone."""

from keyflock_server.identity.owners import Owner, phone_owner
from keyflock_server.storage.records import DeviceRecord


def owner_of(key: bytes, device: DeviceRecord) -> Owner:
    """Return the owner of the heads that this phone may read and write.

    Args:
        key: The server's own, so that a database alone does not tell whose head is whose.
        device: As enrolled; a user whom it names was proven then.
    """
    if device.user_digest is not None:
        return Owner(device.user_digest)
    return phone_owner(key, device.population, device.id)

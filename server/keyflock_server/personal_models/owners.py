"""The owner of a personal model: the user, if the phone named one, or else the phone, as a keyed digest."""

from keyflock_server.identity.owners import Owner, phone_owner
from keyflock_server.storage.records import DeviceRecord


def owner_of(key: bytes, device: DeviceRecord) -> Owner:
    """Return the owner of the models that this phone may read and write.

    Args:
        key: The server's owner key, so that a database alone does not tell whose model is whose.
        device: The device as enrolled; the user that it names was proven at enrolment.
    """
    if device.user_digest is not None:
        return Owner(device.user_digest)
    return phone_owner(key, device.population, device.id)

"""A user asks for their data: what an app does behind its "What is stored about me?"."""

from keyflock_client_sim.device import responses
from keyflock_client_sim.device.responses import CallError
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Exchange, Request
from keyflock_server.protocol.stored_data import StoredData


class StoredDataRefused(RuntimeError):
    """The server does not tell; the message is one line and says why."""


async def fetch_stored_data(exchange: Exchange, token: str, user: str | None = None) -> StoredData:
    """Fetch all that a server stores about a device, or about its user.

    Args:
        exchange: Carries the call.
        token: The device's token.
        user: The secret or the statement that names the device's user: the answer is then about all devices
            of the user. None: about this device alone.
    Raises:
        StoredDataRefused: the token is void, or the user is not the device's.
        ConnectionError: the server does not answer.
    """
    headers = {"Accept": calls.MEDIA_TYPE, "Authorization": f"Bearer {token}"}
    path = calls.STORED_DATA.path
    if user is not None:
        headers[calls.USER_HEADER] = user
        path += "?scope=user"
    response = await exchange.send(Request(calls.STORED_DATA.method, path, headers))
    match responses.read(response, StoredData):
        case CallError(label):
            raise StoredDataRefused(f"the server says {label} to a device that asks for its data")
        case stored:
            return stored

"""A phone's keyboard asks which version to serve whenever its phone checks in, with the same token."""

from keyflock_client_sim.device import requests
from keyflock_client_sim.device.keyboard import ServingKeyboard
from keyflock_client_sim.device.requests import OutgoingCall
from keyflock_server.protocol.calls import Exchange, Request

_SCHEME = "Bearer "


async def check_release(keyboard: ServingKeyboard, exchange: Exchange, check_in: Request) -> None:
    """Carry out a keyboard's check; a call that is lost ends it, and the next check-in begins another.

    Args:
        keyboard: The keyboard.
        exchange: Carries its calls.
        check_in: The call of its phone, whose token it shows.
    """
    token = check_in.headers["Authorization"].removeprefix(_SCHEME)
    outgoing: OutgoingCall | None = keyboard.check()
    while outgoing is not None:
        call = requests.request(outgoing, token=token, assignment_token=None)
        try:
            response = await exchange.send(call)
        except ConnectionError:
            return
        outgoing = keyboard.read(response)

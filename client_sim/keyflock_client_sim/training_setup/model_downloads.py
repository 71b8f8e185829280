"""This module downloads model versions as phones do, for evaluating or publishing them."""

from keyflock_client_sim.device import requests
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.requests import OutgoingCall
from keyflock_client_sim.training_setup.options import DemoError
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Exchange
from keyflock_server.protocol.messages import Enrolment


class ModelDownloads:
    """A held-out phone's side of the protocol: it enrols, and downloads versions; it never trains.

    Args:
        exchange: Carries the calls.
        installation: How the phone introduces itself.
    """

    def __init__(self, exchange: Exchange, installation: Installation) -> None:
        self._exchange = exchange
        self._installation = installation
        self._token: str | None = None

    async def fetch(self, version: int) -> bytes:
        """Download a model version as phones get it.

        Raises:
            DemoError: the server does not give it.
        """
        if self._token is None:
            answer = await self._call(requests.enrol(self._installation))
            self._token = wire.decode(answer, Enrolment).token
        return await self._call(OutgoingCall(calls.MODEL, path_params={"version": str(version)}))

    async def _call(self, outgoing: OutgoingCall) -> bytes:
        request = requests.request(outgoing, token=self._token, assignment_token=None)
        try:
            response = await self._exchange.send(request)
        except ConnectionError as error:
            raise DemoError(f"The server does not answer any more: {error}.") from None
        if response.status != 200:
            raise DemoError(f"The server refused {outgoing.endpoint.name} with status {response.status}.")
        return response.body

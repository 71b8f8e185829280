"""The call under way: the same bytes at every sending, with the credentials as they are by then."""

import random
from dataclasses import dataclass

from keyflock_client_sim.device.backoff import Patience, pause_s, within
from keyflock_client_sim.device.effects import Send
from keyflock_client_sim.device.requests import Outgoing, request
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Enrolment, ReturnWindow


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server knows the device by."""

    device: DeviceId
    token: str
    #: The token is renewed before the next visit from then on.
    refresh_at_s: float

    @classmethod
    def of(cls, enrolment: Enrolment, now_s: float, margin_s: float) -> "Identity":
        """The identity that was given now.

        Edge cases:
            a token that lives shorter than twice the margin -> is used for half its life, so that refreshing
            never chases itself
        """
        margin_s = min(margin_s, enrolment.expires_in_s / 2)
        return cls(enrolment.device, enrolment.token, now_s + enrolment.expires_in_s - margin_s)


class Calling:
    """Makes one call at a time, as often as it takes.

    Args:
        patience: How long to wait between sendings when the server does not say.
        rng: Draws the pauses.
    """

    def __init__(self, patience: Patience, rng: random.Random) -> None:
        self.identity: Identity | None = None
        #: None between calls.
        self.what: Outgoing | None = None
        #: Whether the token was renewed for this call, so that it is not renewed again and again.
        self.has_refreshed = False
        self._patience = patience
        self._rng = rng
        self._attempt = 0
        self._failures = 0

    @property
    def name(self) -> str:
        """Name of the endpoint, for the log."""
        return self.what.call.name if self.what else ""

    def begin(self, what: Outgoing) -> None:
        """Another call than before."""
        self.what = what
        self.has_refreshed = False
        self._attempt = self._failures = 0

    def end(self) -> None:
        """The call is over, whatever came of it."""
        self.what = None
        self._failures = 0

    def send(self, assignment_token: str | None) -> Send:
        """The call, once more."""
        if self.what is None:
            raise AssertionError("no call was begun")
        self._attempt += 1
        token = self.identity.token if self.identity else None
        composed = request(self.what, token=token, assignment_token=assignment_token)
        return Send(self.what.call, composed, self._attempt)

    def pause_s(self, retry: ReturnWindow | None) -> float:
        """Seconds until the next sending, after one that brought nothing: as the server says, or growing."""
        self._failures += 1
        return within(retry, self._rng) if retry else pause_s(self._patience, self._failures, self._rng)

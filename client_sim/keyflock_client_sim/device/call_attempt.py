"""The call under way: every attempt sends the same bytes, with the credentials of that moment."""

import random
from dataclasses import dataclass

from keyflock_client_sim.device.backoff import RetryPolicy, draw_within, pause_s
from keyflock_client_sim.device.effects import Send
from keyflock_client_sim.device.requests import OutgoingCall, request
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Enrolment, ReturnWindow


@dataclass(frozen=True, slots=True)
class Identity:
    """The id and the token under which the server knows the device."""

    device: DeviceId
    token: str
    #: From then on, the token is refreshed before the next visit.
    refresh_at_s: float

    @classmethod
    def of(cls, enrolment: Enrolment, now_s: float, margin_s: float) -> "Identity":
        """Return the identity that the server has just given.

        Edge cases:
            a token that lives shorter than twice the margin -> is used for half its life, so that refreshing
            never chases itself
        """
        margin_s = min(margin_s, enrolment.expires_in_s / 2)
        return cls(enrolment.device, enrolment.token, now_s + enrolment.expires_in_s - margin_s)


class CallAttempt:
    """Sends one call at a time, as often as it takes.

    Args:
        policy: How long to wait between attempts when the server does not say.
        rng: Draws the pauses.
    """

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self.identity: Identity | None = None
        #: The call under way; None between calls.
        self.outgoing: OutgoingCall | None = None
        #: Whether the token was refreshed for this call, so that it is not refreshed again and again.
        self.has_refreshed = False
        self._policy = policy
        self._rng = rng
        self._attempts = 0
        self._failures = 0

    @property
    def name(self) -> str:
        """Return the name of the endpoint, for the log."""
        return self.outgoing.endpoint.name if self.outgoing else ""

    def begin(self, outgoing: OutgoingCall) -> None:
        """Begin another call."""
        self.outgoing = outgoing
        self.has_refreshed = False
        self._attempts = self._failures = 0

    def end(self) -> None:
        """End the call, whatever its result."""
        self.outgoing = None
        self._failures = 0

    def send(self, assignment_token: str | None) -> Send:
        """Return the effect that sends the call once more."""
        if self.outgoing is None:
            raise AssertionError("no call was begun")
        self._attempts += 1
        token = self.identity.token if self.identity else None
        composed = request(self.outgoing, token=token, assignment_token=assignment_token)
        return Send(self.outgoing.endpoint, composed, self._attempts)

    def pause_s(self, retry: ReturnWindow | None) -> float:
        """Return the seconds until the next attempt: as the server says, or growing with each failure."""
        self._failures += 1
        return draw_within(retry, self._rng) if retry else pause_s(self._policy, self._failures, self._rng)

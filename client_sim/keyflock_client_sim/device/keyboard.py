"""The keyboard of a phone serves the released version, and follows the server's word on which one that is.

It is a state machine like the device: it asks for calls and makes none. At each check it asks which version
to serve, downloads that if it has another one, and serves it, whether its number is higher or lower than that
of the version before: a release may be rolled back.

    IDLE ──check──▸ ASKING ──another version──▸ DOWNLOADING ──its bytes──▸ IDLE
                      └──────the same version, or an error──────────────▸ IDLE

It never tries again by itself: the next check does.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from keyflock_client_sim.device import responses
from keyflock_client_sim.device.requests import OutgoingCall
from keyflock_client_sim.device.responses import CallError
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.plans import ModelWeights


class KeyboardState(StrEnum):
    """The state of a keyboard's check."""

    IDLE = "idle"
    ASKING = "asking"
    DOWNLOADING = "downloading"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that a keyboard serves."""

    version: ModelVersion
    #: SHA-256 of its download.
    digest: bytes


class ServingKeyboard:
    """What one phone's keyboard serves.

    Args:
        population: The population that the phone belongs to.
    Guarantees:
        It serves no bytes but those that the server named as the release. Once it has asked and downloaded,
        it has nothing of the version before.
    """

    def __init__(self, population: PopulationName) -> None:
        self._population = population
        self._state = KeyboardState.IDLE
        self._wanted: Release | None = None
        #: None until the first version was downloaded.
        self.served: ServedModel | None = None

    @property
    def state(self) -> KeyboardState:
        """Return the state of the check."""
        return self._state

    def check(self) -> OutgoingCall:
        """Begin a check, also after one whose answer was lost; return the call that asks for the release."""
        self._state, self._wanted = KeyboardState.ASKING, None
        return OutgoingCall(calls.RELEASE, path_params={"population": self._population})

    def read(self, response: Response) -> OutgoingCall | None:
        """Read the answer to the last call, and return the next one; None: the check is over.

        Edge cases:
            an error, or bytes that are not what the release names -> the check is over, and what is served
            stays; a version that was withdrawn while it was asked for -> the same
        """
        match self._state:
            case KeyboardState.ASKING:
                return self._read_release(response)
            case KeyboardState.DOWNLOADING if self._wanted is not None:
                self._read_model(response, self._wanted)
                self._end()
                return None
            case _:
                raise AssertionError("a keyboard that has asked for nothing got an answer")

    def _read_release(self, response: Response) -> OutgoingCall | None:
        match responses.read(response, Release):
            case CallError():
                self._end()
                return None
            case release:
                served = ServedModel(ModelVersion(release.model_version), release.model_digest)
                if self.served is not None and self.served.digest == served.digest:
                    self.served = served  # perhaps another number for the same bytes
                    self._end()
                    return None
                self._state, self._wanted = KeyboardState.DOWNLOADING, release
                is_average = release.weights is ModelWeights.RELEASED
                call = calls.RELEASED_MODEL if is_average else calls.MODEL
                return OutgoingCall(call, path_params={"version": str(release.model_version)})

    def _read_model(self, response: Response, wanted: Release) -> None:
        digest = hashlib.sha256(response.body).digest()
        if response.status == 200 and digest == wanted.model_digest:
            self.served = ServedModel(ModelVersion(wanted.model_version), digest)

    def _end(self) -> None:
        self._state, self._wanted = KeyboardState.IDLE, None

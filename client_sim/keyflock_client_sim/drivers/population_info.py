"""A fleet must know the size and the vocabulary of a server's model before its phones can train.

The fetch enrols a device, asks, and has the device forgotten, so that none is left behind on the server.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from keyflock_client_sim.device import requests, responses
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.requests import OutgoingCall
from keyflock_client_sim.device.responses import CallError
from keyflock_models.network.config import SIZES, ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Exchange, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Enrolment, Release

T = TypeVar("T")


class PopulationInfoError(RuntimeError):
    """The server cannot be used for this population; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class PopulationInfo:
    """The model that the population trains."""

    config: ModelConfig
    #: The words in their order. Their frequencies are not known here, and not needed to train.
    vocabulary: Vocabulary
    release: Release


async def fetch_population(exchange: Exchange, population: PopulationName) -> PopulationInfo:
    """Fetch the model configuration, vocabulary and release of a population.

    Raises:
        PopulationInfoError: no such population, an answer that makes no sense, or a model of no known size.
        ConnectionError: the server does not answer.
    """
    installation = Installation(population=population, app_build=1, locale="en-US")
    enrolment = _read(await _send(exchange, requests.enrol(installation), None), Enrolment)
    parts: dict[str, str] = {"population": population}
    try:
        release = _read(
            await _send(exchange, OutgoingCall(calls.RELEASE, path_params=parts), enrolment.token), Release
        )
        words = await _send(exchange, OutgoingCall(calls.VOCABULARY, path_params=parts), enrolment.token)
    finally:
        await _send(exchange, OutgoingCall(calls.FORGET), enrolment.token)
    vocabulary = _vocabulary(words, release)
    return PopulationInfo(_config(len(vocabulary), release), vocabulary, release)


async def _send(exchange: Exchange, outgoing: OutgoingCall, token: str | None) -> Response:
    return await exchange.send(requests.request(outgoing, token=token, assignment_token=None))


def _read(response: Response, kind: type[T]) -> T:
    match responses.read(response, kind):
        case CallError(label):
            raise PopulationInfoError(f"the server says {label} to a phone of this population")
        case message:
            return message


def _vocabulary(response: Response, release: Release) -> Vocabulary:
    if response.status != 200:
        raise PopulationInfoError(
            f"the server says {responses.error_of(response).label} when asked for its vocabulary"
        )
    try:
        vocabulary = Vocabulary.from_bytes(response.body)
    except VocabularyError as error:
        raise PopulationInfoError(f"the server's vocabulary is none: {error}") from None
    if vocabulary.digest != release.vocabulary:
        raise PopulationInfoError("the server's vocabulary is not the one that its model's rows mean")
    return vocabulary


def _config(words: int, release: Release) -> ModelConfig:
    for size in SIZES.values():
        config = replace(size, vocabulary_size=words)
        if ParamLayout.for_config(config).digest == release.layout:
            return config
    raise PopulationInfoError(f"the server's model has none of the known sizes: {', '.join(SIZES)}")

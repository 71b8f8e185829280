"""What a fleet must know of a server's model before its phones can train: its size and its words.

A scout enrols, asks, and has itself forgotten, so that no device is left behind on the server.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from keyflock_client_sim.device import answers, requests
from keyflock_client_sim.device.answers import Trouble
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.requests import Outgoing
from keyflock_models.config import SIZES, ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.vocabulary import Vocabulary, VocabularyError
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Exchange, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Enrolment, Release

T = TypeVar("T")


class ScoutError(RuntimeError):
    """The server cannot be used for this population; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the server's phones train."""

    config: ModelConfig
    #: The words in their order. How frequent they are is not known here, and not needed to train.
    vocabulary: Vocabulary
    release: Release


async def scout(exchange: Exchange, population: PopulationName) -> Findings:
    """The model of a population.

    Raises:
        ScoutError: no such population, an answer that makes no sense, or a model of no known size.
        ConnectionError: the server does not answer.
    """
    installation = Installation(population=population, app_build=1, locale="en-US")
    enrolment = _read(await _send(exchange, requests.enrol(installation), None), Enrolment)
    parts: dict[str, str] = {"population": population}
    try:
        release = _read(await _send(exchange, Outgoing(calls.RELEASE, parts=parts), enrolment.token), Release)
        words = await _send(exchange, Outgoing(calls.VOCABULARY, parts=parts), enrolment.token)
    finally:
        await _send(exchange, Outgoing(calls.FORGET), enrolment.token)
    vocabulary = _vocabulary(words, release)
    return Findings(_config(len(vocabulary), release), vocabulary, release)


async def _send(exchange: Exchange, what: Outgoing, token: str | None) -> Response:
    return await exchange.send(requests.request(what, token=token, assignment_token=None))


def _read(response: Response, kind: type[T]) -> T:
    match answers.read(response, kind):
        case Trouble(word):
            raise ScoutError(f"the server says {word} to a phone of this population")
        case message:
            return message


def _vocabulary(response: Response, release: Release) -> Vocabulary:
    if response.status != 200:
        raise ScoutError(f"the server says {answers.trouble(response).word} when asked for its vocabulary")
    try:
        vocabulary = Vocabulary.from_bytes(response.body)
    except VocabularyError as error:
        raise ScoutError(f"the server's vocabulary is none: {error}") from None
    if vocabulary.digest != release.vocabulary:
        raise ScoutError("the server's vocabulary is not the one that its model's rows mean")
    return vocabulary


def _config(words: int, release: Release) -> ModelConfig:
    for size in SIZES.values():
        config = replace(size, vocabulary_size=words)
        if ParamLayout.of(config).digest == release.layout:
            return config
    raise ScoutError(f"the server's model has none of the known sizes: {', '.join(SIZES)}")

"""What a fleet finds out before it starts."""

import hashlib

import numpy as np
import pytest

from keyflock_client_sim.drivers.population_info import PopulationInfoError, fetch_population
from keyflock_client_sim.testing.scripted_server import problem_response, success_response
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol.calls import VOCABULARY_MEDIA_TYPE, Request, Response
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName
from keyflock_server.protocol.messages import Enrolment, Forgotten, Release, ReturnWindow
from keyflock_server.protocol.problems import ProblemCode

POPULATION = PopulationName("en-US")
WORDS = (*SPECIAL_TOKENS, *(f"w{number}" for number in range(60)))


def document(words: tuple[str, ...]) -> bytes:
    """What the server answers for these words."""
    return Vocabulary(words, np.zeros(len(words), np.float32)).to_bytes()


TINY = ModelConfig.named("tiny")


class _Library:
    """Answers what a scout asks."""

    def __init__(self, layout: bytes, words: bytes) -> None:
        self.asked: list[str] = []
        self.release = Release(
            population=POPULATION,
            model_version=ModelVersion(3),
            model_digest=hashlib.sha256(b"model").digest(),
            size_bytes=5,
            vocabulary=Vocabulary(WORDS, np.zeros(64, np.float32)).digest,
            layout=layout,
        )
        self.words = words

    async def send(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.path}")
        window = ReturnWindow(min_s=1.0, max_s=2.0)
        match request.method, request.path:
            case "POST", "/v1/devices":
                return success_response(
                    Enrolment(device=DeviceId("d"), token="t", expires_in_s=60.0, return_window=window)
                )
            case "GET", "/v1/populations/en-US/release":
                return success_response(self.release)
            case "GET", "/v1/populations/en-US/vocabulary":
                return Response(200, {"content-type": VOCABULARY_MEDIA_TYPE}, self.words)
            case _:
                return success_response(Forgotten(devices=1))


async def test_a_scout_finds_size_and_words_and_has_itself_forgotten() -> None:
    library = _Library(ParamLayout.for_config(TINY).digest, document(WORDS))

    found = await fetch_population(library, POPULATION)

    assert found.config == TINY
    assert found.vocabulary.words == WORDS
    assert library.asked[-1] == "DELETE /v1/devices/me"


@pytest.mark.parametrize(
    ("layout", "words", "complaint"),
    [
        (bytes(16), document(WORDS), "known sizes"),
        (ParamLayout.for_config(TINY).digest, document((*WORDS[:-1], "other")), "not the one"),
        (ParamLayout.for_config(TINY).digest, b"\xff\xfe", "vocabulary"),
    ],
)
async def test_a_server_that_phones_could_not_train_for_is_refused_at_once(
    layout: bytes, words: bytes, complaint: str
) -> None:
    library = _Library(layout, words)

    with pytest.raises(PopulationInfoError, match=complaint):
        await fetch_population(library, POPULATION)

    assert library.asked[-1] == "DELETE /v1/devices/me"


async def test_a_population_that_is_not_there_is_named_as_the_server_names_it() -> None:
    class Empty(_Library):
        async def send(self, request: Request) -> Response:
            del request
            return problem_response(ProblemCode.POPULATION_UNKNOWN)

    with pytest.raises(PopulationInfoError, match="population_unknown"):
        await fetch_population(Empty(b"", b""), POPULATION)

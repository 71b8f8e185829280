"""What a fleet finds out before it starts."""

import hashlib

import numpy as np
import pytest

from keyflock_client_sim.drivers.scout import ScoutError, scout
from keyflock_client_sim.drivers.scripted_server import answer, problem
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.special_tokens import SPECIAL_TOKENS
from keyflock_models.vocabulary import Vocabulary
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
                return answer(
                    Enrolment(device=DeviceId("d"), token="t", expires_in_s=60.0, return_window=window)
                )
            case "GET", "/v1/populations/en-US/release":
                return answer(self.release)
            case "GET", "/v1/populations/en-US/vocabulary":
                return Response(200, {"content-type": VOCABULARY_MEDIA_TYPE}, self.words)
            case _:
                return answer(Forgotten(devices=1))


async def test_a_scout_finds_size_and_words_and_has_itself_forgotten() -> None:
    library = _Library(ParamLayout.of(TINY).digest, document(WORDS))

    found = await scout(library, POPULATION)

    assert found.config == TINY
    assert found.vocabulary.words == WORDS
    assert library.asked[-1] == "DELETE /v1/devices/me"


@pytest.mark.parametrize(
    ("layout", "words", "complaint"),
    [
        (bytes(16), document(WORDS), "known sizes"),
        (ParamLayout.of(TINY).digest, document((*WORDS[:-1], "other")), "not the one"),
        (ParamLayout.of(TINY).digest, b"\xff\xfe", "vocabulary"),
    ],
)
async def test_a_server_that_phones_could_not_train_for_is_refused_at_once(
    layout: bytes, words: bytes, complaint: str
) -> None:
    library = _Library(layout, words)

    with pytest.raises(ScoutError, match=complaint):
        await scout(library, POPULATION)

    assert library.asked[-1] == "DELETE /v1/devices/me"


async def test_a_population_that_is_not_there_is_named_as_the_server_names_it() -> None:
    class Empty(_Library):
        async def send(self, request: Request) -> Response:
            del request
            return problem(ProblemCode.POPULATION_UNKNOWN)

    with pytest.raises(ScoutError, match="population_unknown"):
        await scout(Empty(b"", b""), POPULATION)

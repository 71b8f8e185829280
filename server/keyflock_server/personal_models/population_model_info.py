"""The vocabulary and dimensions of each population's model, with which personal models are decoded."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from keyflock_compression import CodecError, decode_state, encode_state
from keyflock_models.network.config import ModelConfig
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode


class PopulationModelSource(Protocol):
    """The source of what is the same for every version of a population's model: the model store."""

    async def vocabulary(self, population: PopulationName) -> bytes:
        """Return the vocabulary: the words that the model's rows stand for."""
        ...

    async def config(self, population: PopulationName) -> ModelConfig:
        """Return the model's dimensions."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PopulationModelInfo:
    """The vocabulary and dimensions of a population's model."""

    vocabulary: Vocabulary
    config: ModelConfig

    def decode_personal_model(self, data: bytes) -> PersonalModel:
        """Decode a personal model.

        Raises:
            ApiError: ``malformed_head``; the detail quotes nothing of the data.
        """
        return self.decode_upload(data)[0]

    def decode_upload(self, data: bytes) -> tuple[PersonalModel, bytes]:
        """Decode a personal model that a phone puts, and return it with the bytes to store.

        Returns:
            The bytes are the phone's. If there are words among them that may not be learned (secrets, from a
            phone with an earlier release), they are encoded anew without these words and their counts.
        Raises:
            ApiError: ``malformed_head``; the detail quotes nothing of the data.
        """
        try:
            state = decode_state(data)
            model = PersonalModel.from_state(state, self.vocabulary, width=self.config.embedding_size)
            words = model.words.to_state()
            stored = state["words"]
            if isinstance(stored, dict) and any(stored[name] != value for name, value in words.items()):
                data = encode_state(state | {"words": words, "history": model.history.to_state()})
        except (CodecError, PersonalStateError) as error:
            raise ApiError(ProblemCode.MALFORMED_HEAD, f"{error}.") from None
        return model, data


class PopulationModelInfos:
    """The model information of all populations, read once, because it never changes."""

    def __init__(self, source: PopulationModelSource) -> None:
        self._source = source
        self._infos: dict[PopulationName, PopulationModelInfo] = {}
        self._lock = asyncio.Lock()

    async def get(self, population: PopulationName) -> PopulationModelInfo:
        """Return one population's information; raises ApiError ``population_unknown``."""
        async with self._lock:
            if population not in self._infos:
                config = await self._source.config(population)
                words = await self._source.vocabulary(population)
                vocabulary = await asyncio.to_thread(Vocabulary.from_bytes, words)
                self._infos[population] = PopulationModelInfo(vocabulary, config)
        return self._infos[population]

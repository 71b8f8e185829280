"""The vocabulary and dimensions of each population's model, with which personal models are decoded."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from keyflock_compression import CodecError, decode_state
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
        try:
            state = decode_state(data)
            return PersonalModel.from_state(state, self.vocabulary, width=self.config.embedding_size)
        except (CodecError, PersonalStateError) as error:
            raise ApiError(ProblemCode.MALFORMED_HEAD, f"{error}.") from None


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

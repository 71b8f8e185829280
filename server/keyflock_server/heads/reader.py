"""Looks into heads: is it a personal model of this population's vocabulary and trunk?"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from keyflock_compression import CodecError, decode_state
from keyflock_models.config import ModelConfig
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.vocabulary import Vocabulary
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused


class Populations(Protocol):
    """What is the same for every version of a population's model."""

    async def vocabulary(self, population: PopulationName) -> bytes:
        """The words that the model's rows mean."""
        ...

    async def config(self, population: PopulationName) -> ModelConfig:
        """The model's dimensions."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """A population's words and dimensions."""

    vocabulary: Vocabulary
    config: ModelConfig

    def read(self, data: bytes) -> PersonalModel:
        """A head's personal model.

        Raises:
            Refused: ``malformed_head``; the detail holds nothing of the head.
        """
        try:
            state = decode_state(data)
            return PersonalModel.from_state(state, self.vocabulary, width=self.config.embedding_size)
        except (CodecError, PersonalStateError) as error:
            raise Refused(ProblemCode.MALFORMED_HEAD, f"{error}.") from None


class Languages:
    """The languages of all populations, read once; a population never changes its own."""

    def __init__(self, populations: Populations) -> None:
        self._populations = populations
        self._known: dict[PopulationName, Language] = {}
        self._reading = asyncio.Lock()

    async def of(self, population: PopulationName) -> Language:
        """One population's; raises Refused ``population_unknown``."""
        async with self._reading:
            if population not in self._known:
                config = await self._populations.config(population)
                words = await self._populations.vocabulary(population)
                vocabulary = await asyncio.to_thread(Vocabulary.from_bytes, words)
                self._known[population] = Language(vocabulary, config)
        return self._known[population]

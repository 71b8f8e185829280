"""How good a version is for phones that took no part, measured on the very bytes that phones download."""

from dataclasses import dataclass, field

from keyflock_client_sim.demo.options import DemoError
from keyflock_client_sim.demo.result import Recall
from keyflock_client_sim.demo.text import DemoText
from keyflock_client_sim.device import requests
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.requests import Outgoing
from keyflock_client_sim.measuring.evaluation import evaluate
from keyflock_client_sim.measuring.scorers import PublishedModel, ScorerSource, Trigram, Unigram
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.evaluation import Evaluation
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Exchange
from keyflock_server.protocol.messages import Enrolment


class Downloads:
    """A held-out phone's side of the protocol: it enrols, and downloads versions; it never trains.

    Args:
        exchange: Carries its calls.
        installation: How it introduces itself.
    """

    def __init__(self, exchange: Exchange, installation: Installation) -> None:
        self._exchange = exchange
        self._installation = installation
        self._token: str | None = None

    async def version(self, version: int) -> bytes:
        """A model version as phones get it.

        Raises:
            DemoError: the server does not give it.
        """
        if self._token is None:
            answer = await self._call(requests.enrol(self._installation))
            self._token = wire.decode(answer, Enrolment).token
        return await self._call(Outgoing(calls.MODEL, parts={"version": str(version)}))

    async def _call(self, what: Outgoing) -> bytes:
        request = requests.request(what, token=self._token, assignment_token=None)
        try:
            response = await self._exchange.send(request)
        except ConnectionError as error:
            raise DemoError(f"The server does not answer any more: {error}.") from None
        if response.status != 200:
            raise DemoError(f"The server refused {what.call.name} with status {response.status}.")
        return response.body


@dataclass(slots=True)
class Judge:
    """Measures versions on held-out users; what was measured in full is remembered."""

    pool: WorkerPool
    downloads: Downloads
    #: Says the size of the model and its words.
    checkpoint: Checkpoint
    text: DemoText
    _published: dict[int, PublishedModel] = field(default_factory=dict)

    async def at_a_glance(self, version: int) -> Recall:
        """A version on the sample of the held-out users."""
        return recall_of(await evaluate(self.pool, await self.published(version), self.text.sample()))

    async def in_full(self, version: int) -> Evaluation:
        """A version on all held-out users."""
        return await self._in_full(await self.published(version))

    async def unigram(self) -> Evaluation:
        """Counting words in all text that is not held out."""
        return await self._in_full(Unigram(self.checkpoint.vocabulary, self.text.held_out.elsewhere))

    async def trigram(self) -> Evaluation:
        """Counting three words in a row in all text that is not held out."""
        return await self._in_full(Trigram(self.checkpoint.vocabulary, self.text.held_out.elsewhere))

    async def published(self, version: int) -> PublishedModel:
        """A version, where the workers find it."""
        if version not in self._published:
            digest = self.pool.publish(await self.downloads.version(version))
            self._published[version] = PublishedModel(
                digest, self.checkpoint.config, self.checkpoint.vocabulary
            )
        return self._published[version]

    async def _in_full(self, source: ScorerSource) -> Evaluation:
        return await evaluate(self.pool, source, self.text.held_out.sequences)


def recall_of(evaluation: Evaluation) -> Recall:
    """Over all words of all users."""
    return Recall(evaluation.recall_at_1.micro, evaluation.recall_at_3.micro)

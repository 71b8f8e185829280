"""The choices of codecs are remembered: phones of one build, on one kind of network, get the same codec."""

from typing import Final

from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import CheckIn
from keyflock_server.rounds.codec_choice import CodecChoice, codec_for, network_of
from keyflock_server.rounds.eligibility import Ineligible
from keyflock_server.rounds.task import TaskSpec

#: Number of choices after which all are forgotten: a phone states its budget to the byte.
_MAX_REMEMBERED: Final = 4_096

_Key = tuple[TaskName, str, tuple[str, ...], int | None]


class CodecChoices:
    """Chooses the codec of a phone's report to a task.

    Args:
        models: Gives the layouts of reports.
    """

    def __init__(self, models: ModelStore) -> None:
        self._models = models
        self._choices: dict[_Key, CodecChoice | Ineligible] = {}

    async def choice(self, spec: TaskSpec, message: CheckIn) -> CodecChoice | Ineligible:
        """Return the codec of this phone's report, or why there is none; see ``codec_for``.

        A task's codecs never change, and no other task ever has its id.
        """
        key = (
            spec.name,
            network_of(message.conditions),
            message.capabilities.codecs,
            message.upload_budget_bytes,
        )
        known = self._choices.get(key)
        if known is None:
            known = codec_for(spec, message, await self._models.report_layout(spec))
            if len(self._choices) >= _MAX_REMEMBERED:
                self._choices.clear()
            self._choices[key] = known
        return known

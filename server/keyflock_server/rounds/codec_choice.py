"""Which codec a phone is to use in this assignment: the task's for its network, within its byte budget. Pure.

A task names a codec, and may name others for phones that pay for each byte or wait for it. A phone that
cannot encode the one for its network gets the task's own. A phone's own budget caps what it sends, where the
codec has a step to make coarser, and is kept where a codec's longest container is within it; where neither is
so, the phone is left alone rather than its budget broken.

Rounding to the nearest step shrinks what is small, the more so the coarser the step, and no weight can undo
that: docs/decisions/0032 says by how much. With ``rounding = "stochastic"`` the mean of any mixture is right.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from keyflock_compression import CodecSpec, Layout, length_of
from keyflock_server.protocol.messages import CheckIn, Conditions, RefusalReason, TaskKind
from keyflock_server.rounds.eligibility import Ineligible
from keyflock_server.rounds.task import TaskSpec


class Network(StrEnum):
    """What a byte costs the phone."""

    UNMETERED = "unmetered"
    METERED = "metered"
    #: Metered or not: an upload takes long, and the phone's person may come back before it ends.
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """What goes into the assignment."""

    #: Wire form of the ``CodecSpec``.
    codec: dict[str, Any]
    network: Network


def network_of(conditions: Conditions) -> Network:
    """The phone's network, as it says itself."""
    if conditions.is_slow:
        return Network.SLOW
    return Network.UNMETERED if conditions.is_unmetered else Network.METERED


def codec_for(spec: TaskSpec, message: CheckIn, layout: Layout) -> CodecChoice | Ineligible:
    """The codec of this phone's report, or why there is none.

    Args:
        spec: The task.
        message: What the phone says of itself.
        layout: Of the task's reports.
    Guarantees:
        The codec is among the phone's capabilities. With ``upload_budget_bytes``, no delta of it is longer.
    """
    network, budget_bytes = network_of(message.conditions), message.upload_budget_bytes
    if spec.kind is TaskKind.PERSONALIZE:
        budget_bytes = None  # what these phones send has one small size, whatever it says
    known = [codec for codec in _wanted(spec, network) if codec["codec"] in message.capabilities.codecs]
    if not known:
        return _none(f"This build of the SDK has no codec {spec.codec_spec.codec}.")
    if budget_bytes is None:
        return CodecChoice(dict(known[0]), network)
    for codec in known:
        within = _within(codec, budget_bytes, layout)
        if within is not None:
            return CodecChoice(within, network)
    return _none(f"The task's codec {spec.codec_spec.codec} keeps to no budget of bytes.")


def table_of(spec: TaskSpec, codec: CodecSpec) -> str:
    """Return the name of the task's codec table that an assignment's codec comes from.

    Edge cases:
        a phone's own budget has capped it -> the table that it has capped
        tables that say the same -> the first of them: their deltas are alike
    """
    tables = {name: CodecSpec.from_wire(wire) for name, wire in spec.codecs.items()}
    same = [name for name, known in tables.items() if known == codec]
    capped = [
        name
        for name, known in tables.items()
        if known.has_own_step and replace(known, budget_bytes=codec.budget_bytes) == codec
    ]
    return next(iter([*same, *capped]), "codec")


def _wanted(spec: TaskSpec, network: Network) -> tuple[Mapping[str, Any], ...]:
    own = spec.codec_by_network.of(network)
    return (spec.codec,) if own is None else (own, spec.codec)


def _within(codec: Mapping[str, Any], budget_bytes: int, layout: Layout) -> dict[str, Any] | None:
    """The codec such that no container is longer than the budget; None if it cannot be promised."""
    wanted = CodecSpec.from_wire(codec)
    if not wanted.has_own_step:
        most = length_of(wanted, layout).most
        return dict(codec) if most is not None and most <= budget_bytes else None
    smaller = budget_bytes if wanted.budget_bytes is None else min(budget_bytes, wanted.budget_bytes)
    capped = replace(wanted, budget_bytes=smaller)
    if length_of(capped, layout).least > smaller:
        return None  # the phone would train, and then find that not even zeros fit
    return capped.to_wire()


def _none(detail: str) -> Ineligible:
    return Ineligible(RefusalReason.NOT_ELIGIBLE, detail)

"""The choice of an assignment's codec: the task's codec for the phone's network, within its budget. Pure.

A task names a codec, and may name others for metered and slow networks. A phone that cannot encode the one
for its network gets the task's own. A phone's own budget caps the codec's step size, where it has one;
otherwise the codec is used only if its longest container is within the budget. If neither is so, the phone is
ineligible.

Rounding to the nearest step shrinks small values, more so with coarser steps, and no weight can undo that:
docs/decisions/0032 says by how much. With ``rounding = "stochastic"`` the mean of any mixture is unbiased.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from keyflock_compression import AdaptiveStepSpec, CodecSpec, Layout, container_length, parse_spec
from keyflock_server.protocol.messages import CheckIn, Conditions, RefusalReason, TaskKind
from keyflock_server.rounds.eligibility import Ineligible
from keyflock_server.rounds.task import TaskSpec


class Network(StrEnum):
    """The class of a phone's network."""

    UNMETERED = "unmetered"
    METERED = "metered"
    #: A slow network, metered or not: an upload takes long, and may be interrupted by the phone's user.
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """The codec of an assignment."""

    #: The wire form of the ``CodecSpec``.
    codec: dict[str, Any]
    network: Network


def network_of(conditions: Conditions) -> Network:
    """Return the phone's network class, as it states it."""
    if conditions.is_slow:
        return Network.SLOW
    return Network.UNMETERED if conditions.is_unmetered else Network.METERED


def codec_for(spec: TaskSpec, message: CheckIn, layout: Layout) -> CodecChoice | Ineligible:
    """Return the codec of this phone's report, or why there is none.

    Args:
        spec: The task.
        message: The phone's check-in.
        layout: The layout of the task's reports.
    Guarantees:
        The codec is among the phone's capabilities. With ``upload_budget_bytes``, no delta is longer.
    """
    network, budget_bytes = network_of(message.conditions), message.upload_budget_bytes
    if spec.kind is not TaskKind.TRAIN:
        budget_bytes = None  # all evidence has one small size
    # A phone gets every setting, also those that the task leaves out: a default is easily guessed wrong.
    wanted = [parse_spec(codec) for codec in _wanted(spec, network)]
    known = [codec for codec in wanted if codec.codec in message.capabilities.codecs]
    if not known:
        return _ineligible(f"This build of the SDK has no codec {spec.codec_spec.codec}.")
    if budget_bytes is None:
        return CodecChoice(known[0].to_wire(), network)
    for codec in known:
        within = _within(codec, budget_bytes, layout)
        if within is not None:
            return CodecChoice(within, network)
    return _ineligible(f"The task's codec {spec.codec_spec.codec} keeps to no budget of bytes.")


def codec_table_of(spec: TaskSpec, codec: CodecSpec) -> str:
    """Return the name of the task's codec table that an assignment's codec comes from.

    Edge cases:
        a codec that a phone's own budget has capped -> the table of the uncapped codec
        equal tables -> the first of them: their deltas are alike
    """
    tables = {name: parse_spec(wire) for name, wire in spec.codecs.items()}
    same = [name for name, known in tables.items() if known == codec]
    capped = [
        name
        for name, known in tables.items()
        if isinstance(known, AdaptiveStepSpec)
        and isinstance(codec, AdaptiveStepSpec)
        and msgspec.structs.replace(known, budget_bytes=codec.budget_bytes) == codec
    ]
    return next(iter([*same, *capped]), "codec")


def _wanted(spec: TaskSpec, network: Network) -> tuple[Mapping[str, Any], ...]:
    own = spec.codec_by_network.for_network(network)
    return (spec.codec,) if own is None else (own, spec.codec)


def _within(wanted: CodecSpec, budget_bytes: int, layout: Layout) -> dict[str, Any] | None:
    """Return the codec with every container within the budget; None if that cannot be guaranteed."""
    if not isinstance(wanted, AdaptiveStepSpec):
        max_bytes = container_length(wanted, layout).max_bytes
        return wanted.to_wire() if max_bytes is not None and max_bytes <= budget_bytes else None
    smaller = budget_bytes if wanted.budget_bytes is None else min(budget_bytes, wanted.budget_bytes)
    capped = msgspec.structs.replace(wanted, budget_bytes=smaller)
    if container_length(capped, layout).min_bytes > smaller:
        return None  # not even a delta of zeros would fit
    return capped.to_wire()


def _ineligible(detail: str) -> Ineligible:
    return Ineligible(RefusalReason.NOT_ELIGIBLE, detail)

"""Operators' messages and calls about stored personal models: counts and gains, nothing about a person."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query
from keyflock_server.protocol.roles import Role


class MeasuredGain(Struct, frozen=True, kw_only=True):
    """What one round that personalised measured; its figures are means over its phones."""

    round: str
    closed_at: datetime
    phones: int
    figures: dict[str, float]


class PersonalModelsView(Struct, frozen=True, kw_only=True):
    """The stored personal models of a population, as numbers."""

    population: str
    #: Number of stored models, and the bytes that they take, encrypted.
    models: int
    stored_bytes: int
    #: The last rounds that personalised, the newest first.
    gains: list[MeasuredGain]


PERSONAL_MODELS: Final = OperatorCall(
    "personal_models",
    "GET",
    "/admin/v1/populations/{population}/personal-models",
    Role.VIEWER,
    Query,
    NoBody,
    PersonalModelsView,
    "Count a population's stored personal models, and show what personalising gains.",
)

CALLS: Final = (PERSONAL_MODELS,)

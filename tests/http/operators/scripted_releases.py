"""A service of releases that knows one, and records its calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keyflock_server.protocol.operator.promotion_policy import PromotionPolicy
from keyflock_server.protocol.operator.releases import GateView, ReleaseStep, ReleaseView

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyflock_server.audit.context import AuditContext

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RELEASE = ReleaseView(
    population="en-US",
    phase="idle",
    version=7,
    candidate=None,
    percent=100,
    newest=7,
    since=AT,
    operator="root",
    reason="A test.",
    revision=3,
    policy=PromotionPolicy(),
)
STEP = ReleaseStep(
    sequence=3,
    at=AT,
    action="promoted",
    version=7,
    candidate=None,
    percent=100,
    operator="root",
    reason="A test.",
)


class ScriptedReleases:
    """Answers every call about releases.

    Args:
        note: Records a call, by its name and what it was given.
        audits: Gets who made the changes, and why.
    """

    def __init__(self, note: Callable[[str, object], None], audits: list[AuditContext]) -> None:
        self._note = note
        self._audits = audits

    async def page(self, after: str | None, limit: int) -> tuple[list[ReleaseView], str | None]:
        self._note("releases", (after, limit))
        return [RELEASE], "en-US"

    async def release(self, name: str, device: str | None = None) -> ReleaseView:
        self._note("release", (name, device))
        return RELEASE

    async def history(
        self, name: str, before: int | None, limit: int
    ) -> tuple[list[ReleaseStep], int | None]:
        self._note("release_history", (name, before, limit))
        return [STEP], 3

    async def gate(self, name: str, candidate: int | None) -> GateView:
        self._note("release_gate", (name, candidate))
        return GateView(candidate=7, released=6, verdict="no_data", findings=[])

    async def policy(self, name: str) -> tuple[PromotionPolicy, int]:
        self._note("release_policy", name)
        return PromotionPolicy(), 4

    async def set_policy(
        self, name: str, order: object, *, audit: AuditContext
    ) -> tuple[PromotionPolicy, int]:
        self._audits.append(audit)
        self._note("set_release_policy", (name, order))
        return PromotionPolicy(), 5

    async def start(self, name: str, order: object, *, audit: AuditContext) -> ReleaseView:
        return self._change("start_release", (name, order), audit)

    async def promote(self, name: str, order: object, *, audit: AuditContext) -> ReleaseView:
        return self._change("promote_release", (name, order), audit)

    async def hold(self, name: str, *, audit: AuditContext) -> ReleaseView:
        return self._change("hold_release", name, audit)

    async def roll_back(self, name: str, order: object, *, audit: AuditContext) -> ReleaseView:
        return self._change("roll_back_release", (name, order), audit)

    def _change(self, name: str, what: object, audit: AuditContext) -> ReleaseView:
        self._audits.append(audit)
        self._note(name, what)
        return RELEASE

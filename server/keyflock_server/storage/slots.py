"""The check of a device in the transaction that gives it a slot, the same for every store.

A check-in judges a device by its token and by what its process has in memory, which may be a pass old. What
must never be wrong is checked here again, by the device's row.
"""

from keyflock_server.rounds.eligibility import may_take_slot
from keyflock_server.rounds.round import Round
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.errors import SlotRefused
from keyflock_server.storage.records import AssignmentRecord


def check_slot(assignment: AssignmentRecord, current: Round, facts: DeviceFacts | None) -> None:
    """Raise SlotRefused if the device must not have this assignment.

    Args:
        assignment: The assignment that would be stored.
        current: Its round.
        facts: The facts in the device's row; None if it is not enrolled.
    """
    is_free = facts is not None and may_take_slot(
        current.spec.eligibility,
        facts.last_contributed_at,
        facts.quarantined_until,
        assignment.assigned_at,
    )
    if not is_free:
        raise SlotRefused(assignment.id, facts)

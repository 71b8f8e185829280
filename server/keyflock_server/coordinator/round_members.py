"""The assignments of an open round that this process knows, by id and by device."""

from collections.abc import Iterator, MutableMapping
from typing import TypeVar, overload

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId
from keyflock_server.storage.records import AssignmentRecord

T = TypeVar("T")


class RoundMembers(MutableMapping[AssignmentId, AssignmentRecord]):
    """A mapping from ids to assignments, which also finds a device's newest one."""

    def __init__(self) -> None:
        self._by_id: dict[AssignmentId, AssignmentRecord] = {}
        self._by_device: dict[DeviceId, AssignmentId] = {}

    def of_device(self, device: DeviceId) -> AssignmentRecord | None:
        """Return the device's newest assignment, or None."""
        known = self._by_device.get(device)
        return None if known is None else self._by_id[known]

    def __getitem__(self, id_: AssignmentId) -> AssignmentRecord:
        """Return the assignment of this id."""
        return self._by_id[id_]

    @overload
    def get(self, id_: AssignmentId, default: None = None, /) -> AssignmentRecord | None: ...

    @overload
    def get(self, id_: AssignmentId, default: AssignmentRecord | T, /) -> AssignmentRecord | T: ...

    def get(self, id_: AssignmentId, default: object = None, /) -> object:
        """Return the assignment of this id, or the default."""
        return self._by_id.get(id_, default)

    def __setitem__(self, id_: AssignmentId, row: AssignmentRecord) -> None:
        """Add an assignment, or replace what is known of it."""
        self._by_id[id_] = row
        known = self._by_device.get(row.device)
        if known is None or self._by_id[known].assigned_at <= row.assigned_at:
            self._by_device[row.device] = id_

    def __delitem__(self, id_: AssignmentId) -> None:
        """Forget an assignment."""
        device = self._by_id.pop(id_).device
        if self._by_device.get(device) == id_:
            del self._by_device[device]

    def __iter__(self) -> Iterator[AssignmentId]:
        """Iterate over the ids."""
        return iter(self._by_id)

    def __len__(self) -> int:
        """Return the number of assignments."""
        return len(self._by_id)

"""The names that travel: one type for each, so that a device is never passed where a task is meant."""

from typing import NewType

#: All phones of one app and language that share a global model, for example ``en-US``.
PopulationName = NewType("PopulationName", str)
#: One installed keyboard. Random, issued at enrolment; says nothing about the person.
DeviceId = NewType("DeviceId", str)
#: A keyed digest of a user in one population, 64 hexadecimal digits; what proved the user is stored nowhere.
UserDigest = NewType("UserDigest", str)
#: What to train, as an operator named it.
TaskName = NewType("TaskName", str)
#: One round of one task: ``<task>-<sequence>``.
RoundId = NewType("RoundId", str)
#: One device in one round. Derived from both, so that a repeated check-in gets the same one.
AssignmentId = NewType("AssignmentId", str)
#: Counts closed rounds of a population; version 0 is what phones start from.
ModelVersion = NewType("ModelVersion", int)

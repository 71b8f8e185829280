"""The protocol's identifiers: a type for each, so that a device is never passed where a task is meant."""

from typing import NewType

#: All phones of one app and language that share a global model, for example ``en-US``: a name that phones and
#: operators give, or the id that it leads to (``numbered_names``).
PopulationName = NewType("PopulationName", str)
#: One installed keyboard: a random id, issued at enrolment, that says nothing about the person.
DeviceId = NewType("DeviceId", str)
#: A keyed digest of a user in one population, 64 hexadecimal digits; what proved the user is stored nowhere.
UserDigest = NewType("UserDigest", str)
#: The name of a task, chosen by an operator, or the id that it leads to (``numbered_names``).
TaskName = NewType("TaskName", str)
#: One round of one task: ``<task>-<sequence>``.
RoundId = NewType("RoundId", str)
#: One device in one round; derived from both, so that a repeated check-in gets the same id.
AssignmentId = NewType("AssignmentId", str)
#: The number of a population's model version; phones start from version 0.
ModelVersion = NewType("ModelVersion", int)

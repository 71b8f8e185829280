"""The table of operator endpoints: the admin port serves them, the command line calls them."""

from dataclasses import dataclass
from typing import Final

OCTETS: Final = "application/octet-stream"
TOML: Final = "application/toml"
JSON: Final = "application/json"

MAX_CHECKPOINT_BYTES: Final = 268_435_456
MAX_TASK_BYTES: Final = 65_536
MAX_QUESTION_BYTES: Final = 8_192
MAX_ORDER_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One endpoint of the admin port; all of them need the admin token."""

    name: str
    method: str
    path: str
    media_type: str = ""
    #: 0 if the call takes no body.
    max_body_bytes: int = 0


POPULATIONS: Final = OperatorCall("populations", "GET", "/admin/v1/populations")
CREATE_POPULATION: Final = OperatorCall(
    "create_population", "PUT", "/admin/v1/populations/{population}", OCTETS, MAX_CHECKPOINT_BYTES
)
PREVIEW_COHORT: Final = OperatorCall(
    "preview_cohort",
    "POST",
    "/admin/v1/populations/{population}/cohort-preview",
    JSON,
    MAX_QUESTION_BYTES,
)
ROLL_BACK: Final = OperatorCall(
    "roll_back", "POST", "/admin/v1/populations/{population}/rollback", JSON, MAX_ORDER_BYTES
)
RENAME_POPULATION: Final = OperatorCall(
    "rename_population", "POST", "/admin/v1/populations/{population}/rename", JSON, MAX_ORDER_BYTES
)
DELETE_POPULATION: Final = OperatorCall(
    "delete_population", "POST", "/admin/v1/populations/{population}/delete", JSON, MAX_ORDER_BYTES
)
TASKS: Final = OperatorCall("tasks", "GET", "/admin/v1/tasks")
CREATE_TASK: Final = OperatorCall("create_task", "POST", "/admin/v1/tasks", TOML, MAX_TASK_BYTES)
TASK: Final = OperatorCall("task", "GET", "/admin/v1/tasks/{task}")
PAUSE_TASK: Final = OperatorCall("pause_task", "POST", "/admin/v1/tasks/{task}/pause")
RESUME_TASK: Final = OperatorCall("resume_task", "POST", "/admin/v1/tasks/{task}/resume")
CANCEL_TASK: Final = OperatorCall("cancel_task", "POST", "/admin/v1/tasks/{task}/cancel")
ROUNDS: Final = OperatorCall("rounds", "GET", "/admin/v1/tasks/{task}/rounds")
ROUND: Final = OperatorCall("round", "GET", "/admin/v1/rounds/{round}")
ACCEPT_ROUND: Final = OperatorCall(
    "accept_round", "POST", "/admin/v1/rounds/{round}/accept", JSON, MAX_ORDER_BYTES
)
DISCARD_ROUND: Final = OperatorCall(
    "discard_round", "POST", "/admin/v1/rounds/{round}/discard", JSON, MAX_ORDER_BYTES
)
DEVICES: Final = OperatorCall("devices", "GET", "/admin/v1/populations/{population}/devices")
DEVICE: Final = OperatorCall("device", "GET", "/admin/v1/devices/{device}")
QUARANTINE_DEVICE: Final = OperatorCall(
    "quarantine_device", "POST", "/admin/v1/devices/{device}/quarantine", JSON, MAX_ORDER_BYTES
)
RELEASE_DEVICE: Final = OperatorCall("release_device", "POST", "/admin/v1/devices/{device}/release")
REVOKE_DEVICE: Final = OperatorCall("revoke_device", "POST", "/admin/v1/devices/{device}/revoke")

OPERATOR_CALLS: Final = (
    POPULATIONS,
    CREATE_POPULATION,
    PREVIEW_COHORT,
    ROLL_BACK,
    RENAME_POPULATION,
    DELETE_POPULATION,
    TASKS,
    CREATE_TASK,
    TASK,
    PAUSE_TASK,
    RESUME_TASK,
    CANCEL_TASK,
    ROUNDS,
    ROUND,
    ACCEPT_ROUND,
    DISCARD_ROUND,
    DEVICES,
    DEVICE,
    QUARANTINE_DEVICE,
    RELEASE_DEVICE,
    REVOKE_DEVICE,
)

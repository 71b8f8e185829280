"""Declared series about what phones ask for, send and get."""

from typing import Final, get_args

from keyflock_compression.spec import CodecName
from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.protocol.messages import FailureCause, RefusalReason
from keyflock_server.rounds.codec_choice import Network
from keyflock_server.telemetry.series.declaration import TASK, closed, counter, histogram

_BODY_BYTES: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
_NETWORK: Final = closed("network", Network)

CHECK_INS: Final = counter(
    "keyflock_check_ins_total",
    "Check-ins answered, by outcome: assigned, repeated (the same work), or the refusal's reason.",
    closed("outcome", ("assigned", "repeated", *RefusalReason)),
)
ASSIGNED_CODECS: Final = counter(
    "keyflock_assigned_codecs_total",
    "Assignments given, by the phone's network and the codec that was chosen for it.",
    _NETWORK,
    closed("codec", get_args(CodecName)),
)
REPORTS: Final = counter(
    "keyflock_reports_total",
    "Reports acknowledged: counted, or duplicate of one that was.",
    closed("outcome", ("counted", "duplicate")),
)
REPORT_VERDICTS: Final = counter(
    "keyflock_report_verdicts_total",
    "What was said of uploaded reports: refused, by cause; clipped updates and rows.",
    closed("verdict", Verdict),
)
REPORT_DELTA_BYTES: Final = histogram(
    "keyflock_report_delta_bytes",
    "Size of the deltas in acknowledged reports, by the network that the phone asked for work on.",
    _BODY_BYTES,
    _NETWORK,
)
FAILURES: Final = counter(
    "keyflock_failures_total", "Assignments that phones gave back, by cause.", closed("cause", FailureCause)
)
ASSIGNMENTS_EXPIRED: Final = counter(
    "keyflock_assignments_expired_total",
    "Assignments that ran out of time with nothing heard of their devices, by task.",
    TASK,
)
QUARANTINES: Final = counter(
    "keyflock_quarantines_total", "Devices that were kept out because their reports were refused repeatedly."
)

DECLARED: Final = (
    CHECK_INS,
    ASSIGNED_CODECS,
    REPORTS,
    REPORT_VERDICTS,
    REPORT_DELTA_BYTES,
    FAILURES,
    ASSIGNMENTS_EXPIRED,
    QUARANTINES,
)

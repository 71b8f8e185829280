"""The scenarios by name. A new one is one more entry here; nothing else changes."""

from types import MappingProxyType
from typing import Final

from keyflock_load_tests.scenario import (
    ArrivalPlan,
    CallsBeside,
    Goal,
    Outage,
    PhonePlan,
    Scenario,
    ServerPlan,
    SlowPhones,
    StreamPlan,
    TaskPlan,
)

#: What any server should do with any of these loads.
_PROMPT: Final = (
    Goal("check_in", "p99_ms", 100.0),
    Goal("model", "p99_ms", 250.0),
    Goal("offer", "p99_ms", 100.0),
)
_CLEAN: Final = (
    Goal("phones", "error_share", 0.001),
    Goal("phones", "shed", 0.0),
    Goal("generator", "lateness_p99_ms", 20.0),
)

_ALL: Final = (
    Scenario(
        name="steady_day",
        purpose="An ordinary day on one small server: does it answer promptly at the evening peak?",
        arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=60.0, diurnal_swing_ratio=0.8, days=1.0),
        phones=PhonePlan(mean_training_s=1.0, drop_out_share=0.06, lost_connection_share=0.02),
        task=TaskPlan(model_size="small", goal=40, minimum=10, deadline_s=20.0),
        goals=(
            *_PROMPT,
            Goal("report", "p99_ms", 3_000.0),
            Goal("server", "peak_rss_mib", 1_024.0),
            *_CLEAN,
        ),
        fleet_size=2_000,
    ),
    Scenario(
        name="check_in_storm",
        purpose="A million devices, 5,000 check-ins a second for ten minutes: is each answered at once?",
        arrivals=ArrivalPlan(mean_rate_per_s=0.0, duration_s=600.0),
        stream=StreamPlan(per_s=5_000.0, has_reports=False, connections=1_024),
        phones=PhonePlan(),
        # Of a million devices hardly one is sampled for a round of eight.
        task=TaskPlan(goal=8, minimum=4, over_selection=0.0, deadline_s=86_400.0),
        goals=(
            Goal("check_in", "p99_ms", 25.0),
            Goal("check_in", "per_s", 4_999.0, is_minimum=True),
            Goal("server", "cpu_ms_per_call", 0.11),
            Goal("server", "peak_rss_mib", 500.0),
            Goal("phones", "errors", 0.0),
            Goal("phones", "shed", 0.0),
        ),
        fleet_size=1_000_000,
    ),
    Scenario(
        name="report_ingest",
        purpose="Reports as fast as they are acknowledged, while rounds close: how many a second?",
        arrivals=ArrivalPlan(mean_rate_per_s=0.0, duration_s=60.0),
        stream=StreamPlan(connections=256, drain_s=60.0),
        phones=PhonePlan(),
        task=TaskPlan(model_size="full", goal=5_000, minimum=100, over_selection=10.0, deadline_s=600.0),
        goals=(
            Goal("report", "per_s", 1_500.0, is_minimum=True),
            Goal("report", "p99_ms", 500.0),
            Goal("server", "loop_lag_p99_ms", 50.0),
            Goal("server", "peak_rss_mib", 500.0),
            Goal("phones", "errors", 0.0),
        ),
        fleet_size=200_000,
    ),
    Scenario(
        name="replicas",
        purpose="Two servers over one PostgreSQL share the load: is each report counted by one alone?",
        arrivals=ArrivalPlan(mean_rate_per_s=10.0, duration_s=60.0),
        stream=StreamPlan(connections=32, drain_s=60.0),
        phones=PhonePlan(),
        task=TaskPlan(goal=400, minimum=40, over_selection=1.0, deadline_s=60.0),
        goals=(
            Goal("report", "per_s", 100.0, is_minimum=True),
            Goal("report", "p99_ms", 3_000.0),
            Goal("phones", "errors", 0.0),
        ),
        fleet_size=4_000,
        server=ServerPlan(replicas=2),
    ),
    Scenario(
        name="mixed",
        purpose="All calls at once, with suggestions and operators' reads beside: does any of them suffer?",
        arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=60.0),
        phones=PhonePlan(
            failure_share=0.05, enrol_share=0.05, refresh_share=0.1, forget_share=0.02, mean_training_s=1.0
        ),
        task=TaskPlan(goal=40, minimum=10),
        goals=(
            *_PROMPT,
            Goal("report", "p99_ms", 3_000.0),
            Goal("suggest", "p99_ms", 100.0),
            Goal("rounds", "p99_ms", 250.0),
            *_CLEAN,
        ),
        fleet_size=2_000,
        beside=CallsBeside(
            suggestions_per_s=20.0, releases_per_s=2.0, heads_per_s=2.0, operator_reads_per_s=2.0
        ),
        server=ServerPlan(has_suggestions=True),
    ),
    Scenario(
        name="hostile_mix",
        purpose="One phone in ten is bad: is each refused for the right reason, and nobody else slowed?",
        arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=60.0),
        phones=PhonePlan(hostile_share=0.1),
        task=TaskPlan(goal=40, minimum=10),
        goals=(*_PROMPT, Goal("report", "p99_ms", 3_000.0), *_CLEAN),
        fleet_size=2_000,
        # Half-open connections are to be closed within the run, and held long enough to be many at once.
        server=ServerPlan(environment={"KEYFLOCK_HEADER_TIMEOUT_S": "5"}),
    ),
    Scenario(
        name="slow_uploads",
        purpose="A third of the phones upload at 5 kB/s: are the honest ones beside them as fast as before?",
        arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=90.0),
        phones=PhonePlan(answer_timeout_s=60.0),
        # A delta of this model takes them ten seconds.
        task=TaskPlan(model_size="full", goal=40, minimum=10, deadline_s=60.0),
        goals=(
            *_PROMPT,
            Goal("honest", "check_in_p99_ratio", 1.5),
            Goal("honest", "report_p99_ratio", 1.5),
            *_CLEAN,
        ),
        fleet_size=2_000,
        slow_phones=SlowPhones(share=0.33),
        drain_s=90.0,
    ),
    Scenario(
        name="thundering_herd",
        purpose="The server is killed at work, and then everybody is back at once: how long does it take?",
        arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=60.0),
        phones=PhonePlan(max_retries=60),
        task=TaskPlan(goal=40, minimum=10),
        goals=(
            Goal("outage", "restart_s", 2.0),
            Goal("outage", "recovery_s", 10.0),
            Goal("outage", "herd_answered_s", 10.0),
            Goal("phones", "shed", 0.0),
            Goal("generator", "lateness_p99_ms", 20.0),
        ),
        # Half of them visit, and the others are the herd.
        fleet_size=20_000,
        outage=Outage(at_ratio=0.4, down_s=5.0, is_followed_by_all=True),
        drain_s=60.0,
    ),
    Scenario(
        name="soak",
        purpose="Half an hour of work and churn at half load: does memory, a file or a task leak?",
        arrivals=ArrivalPlan(mean_rate_per_s=10.0, duration_s=1_800.0),
        # About half of what a core takes: a check-in that gets work and its report are 3 ms (BENCHMARKS.md).
        stream=StreamPlan(per_s=160.0, connections=1_024, drain_s=60.0),
        phones=PhonePlan(enrol_share=0.1, refresh_share=0.1, forget_share=0.1, failure_share=0.02),
        task=TaskPlan(model_size="full", goal=2_000, minimum=100, over_selection=10.0, deadline_s=120.0),
        goals=(
            *_PROMPT,
            Goal("report", "p99_ms", 3_000.0),
            Goal("server", "rss_mib_per_h_beyond_noise", 0.0),
            Goal("server", "files_per_h_beyond_noise", 0.0),
            Goal("server", "tasks_per_h_beyond_noise", 0.0),
            Goal("server", "peak_rss_mib", 500.0),
            *_CLEAN,
        ),
        fleet_size=100_000,
        drain_s=60.0,
    ),
)

SCENARIOS: Final = MappingProxyType({scenario.name: scenario for scenario in _ALL})

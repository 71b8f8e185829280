"""The scenarios by name. A new one is one more entry here; nothing else changes."""

from types import MappingProxyType
from typing import Final

from keyflock_load_tests.scenario import ArrivalPlan, Goal, PhonePlan, Scenario, TaskPlan

STEADY_DAY: Final = Scenario(
    name="steady_day",
    purpose="An ordinary day on one small server: does it answer promptly at the evening peak?",
    arrivals=ArrivalPlan(mean_rate_per_s=20.0, duration_s=60.0, diurnal_swing_ratio=0.8, days=1.0),
    phones=PhonePlan(mean_training_s=1.0, drop_out_share=0.06, lost_connection_share=0.02),
    task=TaskPlan(model_size="small", goal=40, minimum=10, deadline_s=20.0),
    goals=(
        Goal("check_in", "p99_ms", 100.0),
        Goal("model", "p99_ms", 250.0),
        Goal("offer", "p99_ms", 100.0),
        Goal("report", "p99_ms", 3_000.0),
        Goal("server", "peak_rss_mib", 1_024.0),
        Goal("phones", "error_share", 0.001),
        Goal("phones", "shed", 0.0),
        Goal("generator", "lateness_p99_ms", 20.0),
    ),
    fleet_size=2_000,
)

SCENARIOS: Final = MappingProxyType({scenario.name: scenario for scenario in (STEADY_DAY,)})

"""Declared series about personal models and suggestions."""

from typing import Final

from keyflock_server.telemetry.series.declaration import closed, counter, gauge, histogram

SUGGESTION_BATCH: Final = histogram(
    "keyflock_suggestion_batch_questions",
    "Questions that went through the network together.",
    (1, 2, 4, 8, 16, 32, 64),
)
PROFILES: Final = counter(
    "keyflock_suggestion_profiles_total",
    "Users' models wanted for suggestions: hit (in memory) or load (from the store of heads).",
    closed("outcome", ("hit", "load")),
)
STORED_MODEL_BYTES: Final = gauge(
    "keyflock_stored_model_bytes", "Bytes of all stored personal models, as this process knows of them."
)
STORED_MODEL_LIMIT_BYTES: Final = gauge(
    "keyflock_stored_model_limit_bytes", "How many bytes stored personal models may take together."
)
PROFILE_BYTES: Final = gauge(
    "keyflock_suggestion_profile_bytes", "Memory that users' models take for suggestions, about."
)

DECLARED: Final = (SUGGESTION_BATCH, PROFILES, STORED_MODEL_BYTES, STORED_MODEL_LIMIT_BYTES, PROFILE_BYTES)

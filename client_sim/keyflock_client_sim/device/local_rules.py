"""Some rules of a task can be checked by the phone only. It never reports which of them it broke."""

from typing import Final

from keyflock_client_sim.device.installation import LocalFacts
from keyflock_server.protocol.plans import DeviceRules

#: The rules that a phone of this build can check.
CHECKED_RULES: Final = tuple(DeviceRules.__struct_fields__)


def meets_rules(rules: DeviceRules, facts: LocalFacts, words_at_last_training: int) -> bool:
    """Return whether the phone may take part.

    Args:
        rules: The assignment's.
        facts: The phone's facts at this check-in.
        words_at_last_training: Words that had been typed when it trained last; 0 before the first time.
    """
    return (
        facts.words_typed - words_at_last_training >= rules.min_words_since_training
        and facts.days_of_text >= rules.min_days_of_text
        and facts.free_storage_bytes >= rules.min_free_storage_bytes
        and (facts.is_opted_in or not rules.require_opt_in)
    )

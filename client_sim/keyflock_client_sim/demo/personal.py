"""This module measures what personalisation gives the demo's held-out phones, on the last model version."""

from typing import Final

from keyflock_client_sim.corpora.splits import Split
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.personalisation.measurement import Priors, measure
from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult
from keyflock_client_sim.experiments.personalisation.users import cut_in_time
from keyflock_client_sim.measuring.scorers import PublishedModel
from keyflock_client_sim.training.pool import WorkerPool

#: So many users take about half a minute on two cores.
MAX_USERS: Final = 24
#: With fewer words a phone has too little text to personalise on and to be evaluated on.
MIN_WORDS: Final = 500
_MAX_WORDS: Final = 2_000


async def measure_personalisation(
    pool: WorkerPool, model: PublishedModel, parts: Split
) -> PersonalisationResult | None:
    """Personalise each held-out phone on its earlier text, and evaluate it on the later.

    Returns:
        None where all phones have too little text.
    """
    eligible = [phone for phone in parts.held_out if phone.words >= MIN_WORDS][:MAX_USERS]
    users = [cut_in_time(UserText(phone.device, phone.messages), _MAX_WORDS) for phone in eligible]
    if not users:
        return None
    found = await measure(pool, model, users, Priors(), on_progress=lambda _done, _all: None)
    return found if found.users else None

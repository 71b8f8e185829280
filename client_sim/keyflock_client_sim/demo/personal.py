"""What personalisation gives the demo's held-out phones, on the model that the rounds ended with."""

from typing import Final

from keyflock_client_sim.corpora.splits import Split
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.measuring.scorers import PublishedModel
from keyflock_client_sim.personalising.figures import Personalisation
from keyflock_client_sim.personalising.measuring import Priors, measure
from keyflock_client_sim.personalising.users import cut_in_time
from keyflock_client_sim.training.pool import WorkerPool

#: So many users take about half a minute on two cores.
MOST_USERS: Final = 24
#: With fewer words a phone has too little to learn from and too little to be judged on.
LEAST_WORDS: Final = 500
_MOST_WORDS: Final = 2_000


async def personalised(pool: WorkerPool, model: PublishedModel, parts: Split) -> Personalisation | None:
    """Each held-out phone learns its earlier text and is judged on the later.

    Returns:
        None where all phones have too little text.
    """
    able = [phone for phone in parts.held_out if phone.words >= LEAST_WORDS][:MOST_USERS]
    users = [cut_in_time(UserText(phone.device, phone.messages), _MOST_WORDS) for phone in able]
    if not users:
        return None
    found = await measure(pool, model, users, Priors(), on_progress=lambda _done, _all: None)
    return found if found.users else None

# ruff: noqa: INP001 - a script to be run, not a package
"""Write invented messages of invented people: ``sample_text.py public|phones USERS > FILE.jsonl``.

One JSON object a line, ``{"user": ..., "messages": [...]}``: the form that ``--data`` takes. The people
behind the phones write about other places than the public text does, so that there is something to learn.
"""

import json
import random
import sys

PLACES = {
    "public": ("at work", "in town", "at the school", "near the park", "at home"),
    "phones": ("at work", "in town", "at the school", "at the station", "at the beach"),
}
TIMES = ("tonight", "tomorrow morning", "after lunch", "on friday", "next week", "in an hour")
ACTIONS = ("see you", "i will be", "we can meet", "let us eat", "i am waiting", "can you be")
OPENINGS = ("hi", "hello", "good morning", "thanks for the help", "sorry i am late", "how are you")
MESSAGES = 60


def messages(kind: str, number: int) -> list[str]:
    """Return the messages of one person, who has favourite places and times."""
    rng = random.Random(f"{kind}:{number}")
    places, times = rng.sample(PLACES[kind], 2), rng.sample(TIMES, 2)
    written = []
    for _ in range(MESSAGES):
        words = [rng.choice(ACTIONS), rng.choice(places), rng.choice(times)]
        written.append(" ".join(words if rng.random() < 0.6 else [rng.choice(OPENINGS), *words]))
    return written


kind, users = sys.argv[1], int(sys.argv[2])
for number in range(users):
    line = {"user": f"{kind}-{number}", "messages": messages(kind, number)}
    sys.stdout.write(json.dumps(line) + "\n")

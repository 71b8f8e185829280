"""What personalisation gives, on text messages and on chat; and that the gate stays shut on strangers' text.

    make bench-personalise            (about a quarter of an hour; the shared texts, or KEYFLOCK_DATA)

The trunk is federated on one half of the users, the other half is measured.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.page import PICTURES, Section, table, write
from keyflock_client_sim.console import make_console
from keyflock_client_sim.experiments.personalisation.experiment import run
from keyflock_client_sim.experiments.personalisation.options import PersonaliseOptions

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = Path(os.environ.get("KEYFLOCK_DATA", ROOT.parent / "shared" / "data"))
SMS: Final = DATA / "nus_sms_en.jsonl.gz"
IRC: Final = DATA / "ubuntu_irc.jsonl.gz"

DECISIVE: Final = (
    ("users", "users", "{:d}"),
    ("recall@3 of the product over the global model", "relative_gain", "{:+.1%}"),
    ("in points", "gain_points", "{:+.2f}"),
    ("from", "gain_points_low", "{:+.2f}"),
    ("to (95 % paired bootstrap over users)", "gain_points_high", "{:+.2f}"),
    ("relative, frozen", "frozen_relative_gain", "{:+.1%}"),
    ("gate open after the earlier messages", "share_open", "{:.0%}"),
    ("hurt, with evidence", "share_hurt", "{:.1%}"),
    ("lower by more than 0.2 points, chance included", "share_lower", "{:.1%}"),
    ("p5 of the gain, points", "p5_gain", "{:+.2f}"),
    ("p5 of the gain, frozen", "frozen_p5_gain", "{:+.2f}"),
)


def main() -> None:
    """Measure and write the section."""
    for file in (SMS, IRC):
        if not file.is_file():
            sys.exit(f"bench-personalise needs {file.name} in {DATA}; name another folder by KEYFLOCK_DATA.")
    picture = PICTURES / "personalisation.png"
    sms = run_experiment(
        PersonaliseOptions(data=str(SMS), pretrain=str(IRC), compare_heads=True, picture=picture)
    )
    chat = run_experiment(PersonaliseOptions(data=str(IRC), users=1_000))
    dealt = run_experiment(PersonaliseOptions(data=str(SMS), pretrain=str(IRC), shuffled=True))
    arms = list(sms["arms"])
    rows = [
        (
            f"**{arm}**" if arm in {"global", "gated, learning on"} else arm,
            *(
                f"{100 * found['arms'][arm][measure]:.2f}" if arm in found["arms"] else ""
                for found in (sms, chat)
                for measure in ("recall_at_1", "recall_at_3")
            ),
        )
        for arm in arms
    ]
    columns = {"SMS": sms, "chat": chat, "SMS, dealt anew": dealt}
    decisive = [
        (name, *(form.format(found[key]) for found in columns.values())) for name, key, form in DECISIVE
    ]
    body = f"""{table(("means over users, %", "SMS @1", "SMS @3", "chat @1", "chat @3"), rows)}

{table(("", *columns), decisive)}

Users with at least 100 words, split in time: they learn from the earlier four fifths and are judged on the
later fifth. Trunk of the medium size: SMS from #ubuntu chat and then 40 rounds on other users' phones, chat
from a third of the other users and then 40 rounds on the rest. *Learning on*: as on a phone, each later
message is learned after it was judged; *frozen*: none is. *Dealt anew*: every message given to a user at
random; the gate should be shut.

![gains by user, and by words typed](docs/pictures/personalisation.png)
"""
    write(Section("personalise", "What personalisation gives", "make bench-personalise", body))
    print(body)


def run_experiment(options: PersonaliseOptions) -> dict[str, Any]:
    """Run the experiment and return its figures."""
    return asyncio.run(run(options, make_console(width=150)))


if __name__ == "__main__":
    main()

"""What becomes of heads while the trunk under them moves on: fifty versions, five policies.

make bench-drift            (about five minutes, on the default corpus)
"""

import asyncio
from typing import Any, Final

from benchmarks.page import PICTURES, Section, table, write
from keyflock_client_sim.console import make_console
from keyflock_client_sim.experiments.drift.experiment import run
from keyflock_client_sim.experiments.drift.options import DriftOptions

MEANINGS: Final = {
    "drop": "no head",
    "keep": "the head as it was fitted, on whatever trunk",
    "map": "mapped with every version",
    "refit": "fitted anew now and then, set aside between",
    "map and refit": "mapped, and fitted anew now and then",
}


def main() -> None:
    """Measure and write the section."""
    options = DriftOptions(picture=PICTURES / "drift.png")
    found: dict[str, Any] = asyncio.run(run(options, make_console(width=150)))
    rows: list[tuple[str, ...]] = [
        (
            policy,
            MEANINGS.get(policy, ""),
            f"{100 * figures['recall_at_3']:.2f}",
            f"{figures['loss']:.3f}",
            f"{figures['loss_last']:.3f}",
        )
        for policy, figures in found["policies"].items()
    ]
    header = ("policy", "", "recall@3 %", "nats a word", "nats at the last version")
    body = f"""{table(header, rows)}

{found["users"]} users of the default corpus ({found["words"]:,} later words), the head alone on every one
of {found["changes"]} federated versions after the one that it was fitted on; means over users and versions.
The weights moved by {found["moved_ratio"]:.0%} of their norm; refitted every {found["refit_every"]} versions.
Network of the size {options.size}.

![loss by version](docs/pictures/drift.png)
"""
    write(Section("drift", "What becomes of heads while the trunk moves on", "make bench-drift", body))
    print(body)


if __name__ == "__main__":
    main()

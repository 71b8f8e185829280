"""This module reports user means by policy over the versions of a trunk, as a table and as a JSON line."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from keyflock_client_sim.experiments.drift.users import DROP, POLICIES, UserDrift
from keyflock_models.arrays import F64

#: Rows of the table, besides the last version.
_ROWS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class DriftResult:
    """The whole measurement."""

    users: tuple[UserDrift, ...]
    #: The distance of each version's weights from version 0's, relative to the latter's norm.
    moved: tuple[float, ...]
    refit_every: int

    def recall_at_3(self, policy: str) -> F64:
        """Return recall@3, mean over users, by version."""
        return np.asarray(np.mean([user.hits[policy] / user.words for user in self.users], axis=0))

    def gain(self, policy: str) -> F64:
        """Return recall@3 minus the global model's on the same version, in points, by version."""
        return np.asarray(100.0 * (self.recall_at_3(policy) - self.recall_at_3(DROP)))

    def loss(self, policy: str) -> F64:
        """Return the loss in nats a public word, mean over users, by version."""
        return np.asarray(np.mean([user.nats[policy] / user.public_words for user in self.users], axis=0))

    @property
    def share_with_head(self) -> float:
        """Return the share of users for whom a head on version 0 was worth keeping."""
        return float(np.mean([user.has_head for user in self.users]))

    def summary(self) -> dict[str, object]:
        """Return what ``--json`` prints: means over all changes, and the last version."""
        policies = {}
        for policy in POLICIES:
            recall, loss = self.recall_at_3(policy), self.loss(policy)
            policies[policy] = {
                "recall_at_3": float(recall[1:].mean()),
                "recall_at_3_first": float(recall[0]),
                "recall_at_3_last": float(recall[-1]),
                "gain_points": float(self.gain(policy)[1:].mean()),
                "gain_points_last": float(self.gain(policy)[-1]),
                "loss": float(loss[1:].mean()),
                "loss_last": float(loss[-1]),
            }
        return {
            "users": len(self.users),
            "words": sum(user.words for user in self.users),
            "share_with_head": self.share_with_head,
            "changes": len(self.moved) - 1,
            "moved_ratio": self.moved[-1],
            "refit_every": self.refit_every,
            "policies": policies,
        }


def print_drift(found: DriftResult, console: Console, *, title: str) -> None:
    """Print some versions, then the means over all changes."""
    table = Table(title=f"{title}, head alone: recall@3 in %, loss in nats")
    for column in ("at", "moved", *POLICIES):
        table.add_column(column, justify="right", no_wrap=True)
    last = len(found.moved) - 1
    for version in sorted({0, 1, last, *range(0, last, max(1, last // _ROWS))}):
        table.add_row(
            str(version),
            f"{100 * found.moved[version]:.0f} %",
            *(_cell(found.recall_at_3(one)[version], found.loss(one)[version]) for one in POLICIES),
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        *(_cell(found.recall_at_3(one)[1:].mean(), found.loss(one)[1:].mean()) for one in POLICIES),
        style="bold",
    )
    console.print(table)
    gains = ", ".join(f"{one} {found.gain(one)[1:].mean():+.2f}" for one in POLICIES if one != DROP)
    console.print(
        f"gain over global      recall@3 in points, mean over the changes: {gains}; "
        f"a head was kept by {100 * found.share_with_head:.0f} % of users",
        soft_wrap=True,
    )


def _cell(recall: float, loss: float) -> str:
    return f"{100 * recall:.1f} / {loss:.2f}"

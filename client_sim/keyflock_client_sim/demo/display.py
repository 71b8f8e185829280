"""The demo's display is one line of progress that moves, and a table that grows above it.

In a pipe or a log nothing moves: the rows are printed as lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keyflock_client_sim.demo.result import Recall, RoundRow
from keyflock_client_sim.demo.table import HEADER, percent, round_line, start_line
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.pretraining.progress import PretrainingProgress as Pretraining
from keyflock_server.protocol.operator.rounds import RoundView


class Display:
    """Shows the demo's progress and its table.

    Args:
        console: The console; progress moves only in a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line = self._progress.add_task("", detail="", visible=False, total=1.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the moving line for as long as the block lasts."""
        with self._progress:
            yield

    def print_line(self, text: str, style: str | None = None) -> None:
        """Print a line that stays."""
        self.console.print(text, style=style, highlight=False, soft_wrap=True)

    def begin(self, description: str) -> None:
        """Show a phase of unknown duration."""
        self._progress.reset(self._line, total=None, description=description, visible=True)
        self._progress.update(self._line, detail="")

    def show_pretraining(self, progress: Pretraining) -> None:
        """Show the progress of version 0."""
        recall = "" if progress.recall_at_1 is None else f" · recall@1 {percent(progress.recall_at_1)}"
        self._progress.update(
            self._line,
            total=1.0,
            completed=progress.ratio,
            detail=f"pass {progress.epochs:.1f} over the text · loss {progress.loss:.2f}{recall}",
        )

    def show_start(self, recall: Recall) -> None:
        """Print the table's head, and the row of the model that phones start from."""
        self.print_line(HEADER, style="bold")
        self.print_line(start_line(recall))

    def show_round(self, view: RoundView | None, done: int, wanted: int, stats: FleetStats) -> None:
        """Show the open round."""
        if view is None:
            return
        training = stats.states()[DeviceState.TRAINING]
        self._progress.update(
            self._line,
            description=f"round {min(done + 1, wanted)} of {wanted}",
            total=view.goal,
            completed=min(view.counted, view.goal),
            detail=f"{view.counted} of {view.goal} reports · {training} phones train",
        )

    def show_row(self, row: RoundRow, parameters: int) -> None:
        """Print the row of a finished round."""
        self.print_line(round_line(row, parameters))

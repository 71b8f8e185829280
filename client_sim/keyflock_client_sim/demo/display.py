"""What the demo shows while it runs: one line of progress that moves, and a table that grows above it.

In a pipe or a log nothing moves: the phases and the rows are printed as lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keyflock_client_sim.demo.result import Recall, RoundRow
from keyflock_client_sim.demo.table import HEADER, percent, round_line, start_line
from keyflock_client_sim.device.states import State
from keyflock_client_sim.drivers.books import Books
from keyflock_client_sim.pretraining.progress import Progress as Pretraining
from keyflock_server.protocol.operator import RoundView


class Display:
    """The demo's face.

    Args:
        console: Where it shows; progress moves only in a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line = self._progress.add_task("", detail="", visible=False, total=1.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows the moving line for as long as the block lasts."""
        with self._progress:
            yield

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def begin(self, doing: str) -> None:
        """What is being done now, without knowing how long it takes."""
        self._progress.reset(self._line, total=None, description=doing, visible=True)
        self._progress.update(self._line, detail="")

    def show_pretraining(self, progress: Pretraining) -> None:
        """How far version 0 is."""
        recall = "" if progress.recall_at_1 is None else f" · recall@1 {percent(progress.recall_at_1)}"
        self._progress.update(
            self._line,
            total=1.0,
            completed=progress.ratio,
            detail=f"pass {progress.epochs:.1f} over the text · loss {progress.loss:.2f}{recall}",
        )

    def show_start(self, recall: Recall) -> None:
        """The table's head, and the row of the model that phones start from."""
        self.say(f"[bold]{HEADER}[/]")
        self.say(start_line(recall))

    def show_round(self, view: RoundView | None, done: int, wanted: int, books: Books) -> None:
        """The round that is open."""
        if view is None:
            return
        training = books.states()[State.TRAINING]
        self._progress.update(
            self._line,
            description=f"round {min(done + 1, wanted)} of {wanted}",
            total=view.goal,
            completed=min(view.counted, view.goal),
            detail=f"{view.counted} of {view.goal} reports · {training} phones train",
        )

    def show_row(self, row: RoundRow, parameters: int) -> None:
        """A round that is over."""
        self.say(round_line(row, parameters))

"""This module shows the progress of pre-training as a bar: how far, loss, and recall on held-out users."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from keyflock_client_sim.pretraining import progress


class PretrainingBar:
    """A bar on a terminal; elsewhere, a line for each measurement of recall."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._recall: float | None = None
        self._bar = Progress(
            TextColumn("pre-training", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("pre-training", total=1.0, figures="workers start")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, moment: progress.PretrainingProgress) -> None:
        """Update the bar."""
        if moment.recall_at_1 is not None:
            self._recall = moment.recall_at_1
        recall = "" if self._recall is None else f", held-out recall@1 {100 * self._recall:.1f} %"
        figures = f"{moment.epochs:.1f} epochs, loss {moment.loss:.3f}{recall}"
        self._bar.update(self._task, completed=moment.ratio, figures=figures)
        if not self._console.is_terminal and moment.recall_at_1 is not None:
            self._console.print(
                f"pre-training {100 * moment.ratio:.0f} %, {moment.elapsed_s:.0f} s: {figures}"
            )

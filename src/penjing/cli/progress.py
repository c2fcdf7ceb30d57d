"""Progress bars for people."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from penjing.cli.ending import stop_where_asked
from penjing.training.loop import Progress as Report


@contextmanager
def training_bar(console: Console, title: str) -> Iterator[Report]:
    """A bar with the loss, the best quality and the time left; on a stream that is no terminal, a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, figures="")
        smooth: list[float] = []

        def report(done: int, total: int, **figures: float) -> None:
            stop_where_asked()
            smooth.append(figures["loss"])
            del smooth[:-100]
            mean = sum(smooth) / len(smooth)
            quality = f"  best {figures['best']:.2f}" if figures["best"] > -1e9 else ""
            bar.update(task, completed=done, total=total, figures=f"loss {mean:.3f}{quality}")
            if not console.is_terminal and (done % max(1, total // 10) == 0 or done == total):
                console.print(f"{title}: step {done} of {total}, loss {mean:.3f}{quality}")

        yield report

"""One step by hand: prune, quantize, distill, replace, exits; and how every job's report is told."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from penjing.cli import telling
from penjing.cli.derive import Options, Panels, takes
from penjing.cli.options import AsJson, Model, Out, app, console, say, tell
from penjing.cli.progress import training_bar
from penjing.errors import BudgetError
from penjing.files.records import to_json
from penjing.job import api
from penjing.job.asked import Budget
from penjing.job.by_hand import Distilling, Leaving, Pruning, Quantizing, Replacing
from penjing.job.material import Sources
from penjing.report.record import Report
from penjing.text.reading import Reading

SPEED_AND_SIZE = ("speedup", "latency_ms", "size_mb")
"""What is asked of a whole compression alone."""


@app.command(cls=Panels)
@takes(Pruning, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def prune(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Cut one thing by hand: heads, neurons, layers, hidden units, tokens or single weights. In float32; the same report."""
    reported(telling.pruned, out, as_json, lambda more: api.prune(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Quantizing, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def quantize(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Round the weights: to integers that the engine computes with (faster), or to few bits on disk (smaller). The same report."""
    reported(telling.quantized, out, as_json, lambda more: api.quantize(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Distilling, Sources, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def distill(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Teach a small student: its losses from a preset or one by one, its texts as they are or more of them. In float32; the same report."""
    reported(telling.distilled, out, as_json, lambda more: api.distill(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Replacing, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def replace(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Train fewer layers in the place of the model's, which they replace at random, more and more of them. In float32; the same report."""
    reported(telling.distilled, out, as_json, lambda more: api.replace(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Leaving, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def exits(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Let easy texts leave early: heads behind some of the layers, in segments that the engine runs one after another. The same report."""
    reported(telling.left_early, out, as_json, lambda more: api.exits(model, out, **options, **more))


@app.command(cls=Panels)
@takes(api.Cascading, api.Given, api.Machinery, Reading, without=("test", "engine", "seed"))
def cascade(out: Out, options: Options, as_json: AsJson = False) -> None:
    """Join two results of one teacher in one engine folder: the fast one answers where it is sure, the better one elsewhere."""
    result = api.cascade(out, **options, tell=tell)
    say(to_json(result), as_json, telling.cascaded(result, out))


def reported(text: Callable[[Report, Path], str], out: Path, as_json: bool, work: Callable[[Options], Report]) -> None:
    """Run a job and print its report; a budget that was not met is an error of its own."""
    report = work({"tell": tell, "progress": lambda title: training_bar(console, title), "command": shlex.join(["penjing", *sys.argv[1:]])})
    say(to_json(report), as_json, text(report, out))
    if report.met is False:
        raise BudgetError(telling.missed(report, out))

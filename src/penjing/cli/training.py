"""The command that fine-tunes a teacher: train."""

from dataclasses import dataclass
from pathlib import Path

from penjing.cli.derive import Options, Panels, takes
from penjing.cli.options import AsJson, Model, Out, Pickle, app, console, say, tell
from penjing.cli.progress import training_bar
from penjing.files.options import option
from penjing.files.whole import Json
from penjing.job import api
from penjing.text.reading import Reading


@dataclass(frozen=True)
class Training:
    """Options of `train`: the schedule."""

    epochs: int = option(3, "Epochs, at most: training stops where nothing gets better.", least=1, most=10_000, panel="training")
    batch_size: int = option(32, "Texts of a step.", least=1, most=100_000, panel="training")
    learning_rate: float = option(5e-5, "Of the weights, at most.", least=None, most=1, panel="training")
    seed: int = option(0, "Of all that is drawn at random.", most=2**32 - 1, panel="training")


@app.command(cls=Panels)
@takes(Training, api.Given, Reading, without=("test",))
def train(model: Model, out: Out, options: Options, pickle: Pickle = False, as_json: AsJson = False) -> None:
    """Fine-tune a teacher: best weights kept, early stopping, and a killed run goes on where it stopped."""
    result = trained(model, out, options, pickle=pickle)
    chosen = f"the best weights by {result['held_out']['examples']} training texts held out, {result['held_out']['quality']:.2f} there"
    say(
        result,
        as_json,
        f"{out}: {result['metric']} {result['quality']:.2f} after {result['steps']} steps, {result['seconds']:.0f} s; {chosen}",
    )


def trained(model: str, out: Path, options: Options, pickle: bool = False) -> Json:
    """Train a teacher; returns its quality and history as JSON."""
    with training_bar(console, "train") as progress:
        teacher = api.train(model, out, **options, pickle=pickle, tell=tell, progress=progress)
    return {
        "out": str(out),
        "metric": teacher.metric,
        "quality": teacher.quality,
        "held_out": {"examples": teacher.held_out, "quality": teacher.history.best},
        "steps": teacher.history.steps,
        "seconds": teacher.history.seconds,
    }

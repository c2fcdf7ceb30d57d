"""Commands of the main job: compress, demo."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from penjing.cli import telling
from penjing.cli.by_hand import reported
from penjing.cli.derive import Options, Panels, by_name, takes
from penjing.cli.options import AsJson, Model, Out, app, claims, tell
from penjing.errors import BudgetError
from penjing.job import api
from penjing.job.asked import Budget
from penjing.job.reading import Compressing
from penjing.text.reading import Reading
from penjing.text.rows import Row

DEMO_SPEEDUP = 6.0
"""The demo's budget: times faster than eager PyTorch."""
DEMO_DROP = 2.0
"""The demo's budget: points that may be lost."""


@app.command(cls=Panels)
@takes(Budget, Compressing, api.Given, api.Machinery, Reading)
def compress(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """The main job: cut, distil, quantize, export and prove a smaller, faster model. A killed run goes on."""
    asked = Compressing(**by_name(options, "recipe", "epochs", "minutes", "no_training"))
    rest = {name: value for name, value in options.items() if name not in ("recipe", "epochs", "minutes", "no_training")}
    reported(telling.compressed, out, as_json, lambda more: api.compress(model, out, recipe=asked.read(tell), **rest, **more))


@app.command(cls=Panels)
@claims("data")
@takes(api.Machinery, without=("engine", "wait"))
def demo(options: Options, out: Out = Path("demo-run"), as_json: AsJson = False) -> None:
    """The whole job, offline: make data, train a teacher, compress it, prove it."""
    from penjing.cli.demo.setup import base_model, logistic_regression, write_data
    from penjing.cli.training import trained
    from penjing.text.data import read_rows

    tell("1 of 4: reviews with negation, contrast and comparison, from Penjing's own generator")
    files = write_data(out / "data", options["seed"])
    tell(f"logistic regression on n-grams: accuracy {logistic_regression(files['train'], files['eval']):.2f}")
    tell("2 of 4: fine-tune a teacher, all-MiniLM-L6-v2")
    teacher = out / "teacher"
    data = {"task": "classification", "train": str(files["train"]), "eval": str(files["eval"]), "max_length": 128}
    if not (teacher / "config.json").is_file():
        with redirect_stdout(sys.stderr):  # standard output is for the result alone
            trained(str(base_model()), teacher, {**data, "epochs": 2, "learning_rate": 1e-4, "seed": options["seed"]})
    tell(f"3 of 4: compress it: {DEMO_SPEEDUP:g} times faster than eager PyTorch, {DEMO_DROP:g} points at most lost")
    asked = Compressing(epochs=2)
    try:
        reported(
            telling.compressed, out / "compressed", as_json,
            lambda more: api.compress(
                teacher, out / "compressed", recipe=asked.read(tell), speedup=DEMO_SPEEDUP, max_drop=DEMO_DROP, test=[str(files["test"])],
                **data, **options, **more,
            ),
        )  # fmt: skip
    except BudgetError:
        _ask(out / "compressed", read_rows(files["test"])[:4])
        raise
    _ask(out / "compressed", read_rows(files["test"])[:4])


def _ask(folder: Path, rows: Sequence[Row]) -> None:
    """Show answers of what was made, where a form could be shipped, and where the report is."""
    if (folder / "engine").is_dir():
        tell("4 of 4: ask it")
        import penjing

        predict = penjing.load(folder)
        for row, answer in zip(rows, predict([row["text"] for row in rows]), strict=True):
            tell(f"  {answer['label']} ({answer['score']:.2f}; it is {row['label']}): {row['text']}")
    if (folder / "report.html").is_file():
        tell(f"open {folder / 'report.html'} in a browser")

"""One step of reshaping by hand: share, factorise, project."""

from penjing.cli import telling
from penjing.cli.by_hand import SPEED_AND_SIZE, reported
from penjing.cli.derive import Options, Panels, takes
from penjing.cli.options import AsJson, Model, Out, app
from penjing.job import api
from penjing.job.asked import Budget
from penjing.job.reshaping import Factorising, Projecting, Retraining, Sharing
from penjing.text.reading import Reading


@app.command(cls=Panels)
@takes(Sharing, Retraining, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def share(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Let groups of layers run one set of weights, which is stored once: smaller, not faster. In float32; the same report."""
    reported(telling.distilled, out, as_json, lambda more: api.share(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Factorising, Retraining, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def factorise(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Write the word embedding as a product of two small matrices, the nearest of this rank. In float32; the same report."""
    reported(telling.distilled, out, as_json, lambda more: api.factorise(model, out, **options, **more))


@app.command(cls=Panels)
@takes(Projecting, Retraining, Budget, api.Given, api.Machinery, Reading, without=SPEED_AND_SIZE)
def project(model: Model, out: Out, options: Options, as_json: AsJson = False) -> None:
    """Project the word embedding at random to this rank, and lift it back by least squares: to compare. In float32; the same report."""
    reported(telling.distilled, out, as_json, lambda more: api.project(model, out, **options, **more))

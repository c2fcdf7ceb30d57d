"""When texts leave: the threshold of a model with exits, on texts held out, and how many leave where."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine
from penjing.engines.exits import NEVER, ExitsEngine, Leaving, Trace
from penjing.engines.form import Form, leaving_early
from penjing.engines.network import Deployed
from penjing.engines.onnx.segments import ends_of, write_segments
from penjing.engines.opening import open_engine
from penjing.maths.exits import PROTOTYPES, class_means, places
from penjing.report.record import LeftRow
from penjing.tasks.judging import quality_of
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded

THRESHOLDS = 200
"""Thresholds that are tried at most."""


@dataclass(frozen=True)
class Leave:
    """How texts leave a product early.

    rule: of `engines.exits.RULES`. drop: points that leaving may lose on the texts `judging`, against the same form run through.
    learned: texts that prototypes are the means of.
    """

    rule: str
    drop: float
    task: Task
    judging: Examples
    learned: Encoded

    def forms(self, forms: Sequence[Form], segments: int) -> list[Form]:
        """The forms that leave early, one for each that ONNX Runtime runs."""
        return [leaving_early(form, segments) for form in forms if form.engine == "onnxruntime"]

    def write(self, deployed: Deployed, folder: Path, form: Form) -> None:
        """Write the files of a form that leaves early, with the threshold that its own answers allow."""
        write_segments(deployed, folder, form)
        path = folder / form.file
        whole = Leaving(ends_of(deployed.network.blueprint))
        whole.write(path)
        engine = open_engine(form, folder)
        assert isinstance(engine, ExitsEngine)
        leaving = replace(whole, rule=self.rule, prototypes=prototypes(engine, self.learned) if self.rule == PROTOTYPES else None)
        trace = engine.trace(self.judging.encoded)
        threshold = threshold_for(self.task, self.judging, trace, trace.scores(leaving), self.drop)
        replace(leaving, threshold=threshold).write(path)


def prototypes(engine: ExitsEngine, texts: Encoded) -> NDArray[np.float32]:
    """Of each exit and class the mean state of the texts whose last answer it is: (exits, classes, hidden)."""
    trace = engine.trace(texts)
    answers = trace.logits[:, -1].argmax(1)
    means = [class_means(trace.first[:, i], answers, trace.logits.shape[-1]) for i in range(trace.first.shape[1])]
    return np.stack(means).astype(np.float32)


def threshold_for(task: Task, judging: Examples, trace: Trace, scores: NDArray[np.floating[Any]], drop: float) -> float:
    """The highest threshold, so the one by which texts leave soonest, at which no more than `drop` points are lost, nor at any below it.

    scores: (N, E), of the exits. `NEVER` where each loses more.
    """
    whole = quality_of(task, judging, list(trace.logits[:, -1]))
    tried = np.unique(scores)
    if len(tried) > THRESHOLDS:
        tried = np.unique(np.quantile(scores, np.linspace(0, 1, THRESHOLDS), method="higher"))
    best = NEVER
    for threshold in tried:
        if whole - quality_of(task, judging, list(at(trace, scores, threshold))) > drop + 1e-9:
            break
        best = float(threshold)
    return best


def at(trace: Trace, scores: NDArray[np.floating[Any]], threshold: float) -> NDArray[np.float32]:
    """The logits (N, C) that texts leave with at a threshold."""
    chosen: NDArray[np.float32] = trace.logits[np.arange(len(scores)), places(scores, threshold)]
    return chosen


def left_of(engine: Engine, texts: Encoded) -> LeftRow | None:
    """How many texts leave an engine where; None where none can."""
    if not isinstance(engine, ExitsEngine):
        return None
    leaving = engine.leaving
    counts = np.bincount(engine.places(texts), minlength=len(leaving.layers))
    return LeftRow(leaving.rule, leaving.threshold, leaving.layers, tuple(int(count) for count in counts))

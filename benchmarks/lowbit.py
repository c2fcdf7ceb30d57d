"""Training in few bits on SST-2: the figures of "Trained in few bits" in docs/quantization.md.

    python benchmarks/lowbit.py [trained] [popcount]

Data and the teacher are read in place from ../shared (or PENJING_SHARED); results go to .cache/bench/lowbit/, where a run that was stopped
goes on. `trained` takes about half an hour on two cores. `popcount` times products, so leave the machine alone meanwhile.
"""

import json
import time
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from main_job import CACHE, SST2, data, run
from numpy.typing import NDArray

from penjing.engines.clock.machine import commit, machine, versions
from penjing.files.whole import write_json
from penjing.job.by_hand import Quantizing
from penjing.maths.popcount import pack_signs, sign_product
from penjing.maths.resampling import paired_interval
from penjing.model.checkpoint import read
from penjing.steps.bits.lowbit import LowBit
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.sensitivity import emulated
from penjing.steps.bits.store import StoreSettings, uniform
from penjing.steps.teach.distill import Distill, Place, Teachers
from penjing.steps.teach.distillation import Distillation, Rider
from penjing.tasks.sources import Reading, load_data
from penjing.training.predict import logits_of
from penjing.training.texts import Texts

HERE = CACHE / "lowbit"
FILE = HERE / "trained.json"
ROWS, SEEDS, EPOCHS = 10_000, (0, 1, 2), 1
ASKED = {
    "binary": Quantizing("binary"),
    "binary, inputs in 1 bit (BiT)": Quantizing("binary", activation_bits=1),
    "xnor": Quantizing("xnor"),
    "ternary": Quantizing("ternary"),
    "linear, 2 bits": Quantizing("linear", 2),
    "dorefa, 2 bits": Quantizing("dorefa", 2),
    "linear, 2 bits, inputs in 4": Quantizing("linear", 2, activation_bits=4),
    "dorefa, 2 bits, inputs in 4": Quantizing("dorefa", 2, activation_bits=4),
    "dorefa, 2 bits, inputs in 4, gradients in 6": Quantizing("dorefa", 2, activation_bits=4, gradient_bits=6),
    "qat-int8": Quantizing("qat-int8", calibration="mse"),
    "qat-int8, ranges learned": Quantizing("qat-int8", calibration="mse", ranges="learned"),
}
"""What `penjing quantize` is asked for, by its row."""


@dataclass(frozen=True)
class Material:
    """The data with a slice of the training rows, the texts that they are split into, the teacher, and what it gets right on dev."""

    known: Any
    texts: Texts
    teacher: Any

    def right(self, logits: Any) -> list[int]:
        """1 for each text of dev that is answered right, else 0."""
        answers = self.known.task.decode(logits, self.known.eval.first_tokens)
        return [int(a == b) for a, b in zip(answers, self.known.eval.gold, strict=True)]


@cache
def material() -> Material:
    """A slice of SST-2 and its teacher."""
    known = load_data(str(SST2), "classification", str(data("sst2", "train")), str(data("sst2", "dev")), Reading(max_length=128), print)
    drawn = np.sort(np.random.default_rng(0).permutation(len(known.train))[:ROWS])
    known = replace(known, train=known.train.take(drawn))
    teacher = read(SST2, head=known.task.head, labels=known.task.labels)
    return Material(known, Texts(known, teacher, 0), teacher)


class Watched:
    """Rounded inputs that note what the model gets right on dev with them, before they are removed."""

    def __init__(self, inputs: Any, student: Any, found: dict[str, list[int]]) -> None:
        self.inputs, self.student, self.found = inputs, student, found

    def before_step(self, step: int, total: int) -> None:
        self.inputs.before_step(step, total)

    def finish(self) -> None:
        here = material()
        self.found["rounded inputs"] = here.right(logits_of(self.student, here.known.eval.encoded))
        self.inputs.finish()


def trial(asked: Quantizing, seed: int) -> dict[str, Any]:
    """One training: what is right on each text of dev, with float inputs and as it was trained."""
    here = material()
    recipe = replace(asked, epochs=EPOCHS).recipe()
    how = recipe.get(Distillation)
    rider = recipe.get(StoreSettings) or recipe.get(QuantizeSettings)
    assert how and isinstance(rider, Rider)
    settings = replace(how.how, schedule=replace(how.how.schedule, seed=seed))
    distill = Distill(here.known.task, Teachers(here.teacher), settings, here.texts.weights, Place(HERE / "partial", HERE / "teacher"))
    schemes = uniform(here.teacher, rider) if isinstance(rider, StoreSettings) else {}
    context: Any = SimpleNamespace(calibration=lambda _, texts: here.texts.calibration(texts))
    step = rider.around(distill, SimpleNamespace(schemes=schemes), context)  # type: ignore[arg-type]
    found: dict[str, list[int]] = {}
    if isinstance(step, LowBit) and step.activation_bits:
        plain = step.inputs
        step.inputs = lambda student, encoded: Watched(plain(student, encoded), student, found)  # type: ignore[method-assign]
    torch.manual_seed(seed)
    evidence = step.observe(here.teacher, here.texts.learned)
    began = time.monotonic()
    taught = step.teach(here.teacher, evidence)
    (HERE / "partial" / "state.pt").unlink(missing_ok=True)
    dev = here.known.eval.encoded
    logits = emulated(taught.model, dev, taught.ranges, ()) if taught.ranges else logits_of(taught.model, dev)
    found["stored" if schemes else "int8"] = here.right(logits)
    return {"seconds": time.monotonic() - began, "steps": taught.history.steps, "right": found}


def trained() -> None:
    """Every row of `ASKED` with every seed."""
    done: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {"trials": {}}
    if "teacher" not in done:
        done["teacher"] = material().right(logits_of(material().teacher, material().known.eval.encoded))
    done |= {"machine": machine().to_dict(), "versions": versions(), "commit": commit()}
    for seed in SEEDS:
        for label, asked in ASKED.items():
            if f"{label} / {seed}" not in done["trials"]:
                done["trials"][f"{label} / {seed}"] = result = trial(asked, seed)
                HERE.mkdir(parents=True, exist_ok=True)
                write_json(FILE, done)
                rights = {name: round(100 * float(np.mean(right)), 2) for name, right in result["right"].items()}
                print(f"{label} / {seed}: {rights}, {result['seconds']:.0f} s, {result['steps']} steps", flush=True)


def table() -> str:
    """What `trained` found, as Markdown: accuracy on dev, each seed and the mean, and the points lost against the teacher."""
    if not FILE.is_file():
        return ""
    done = json.loads(FILE.read_text())
    teacher = np.array(done["teacher"], np.float64)
    lines = [
        f"teacher {100 * teacher.mean():.2f}",
        "| trained | as it is run | dev, each seed | mean | lost (95 %) | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label in ASKED:
        trials = [t for seed in SEEDS if (t := done["trials"].get(f"{label} / {seed}"))]
        for how in trials[0]["right"] if trials else ():
            right = np.array([t["right"][how] for t in trials], np.float64)
            low, high = interval(teacher, right.mean(0))
            each = ", ".join(f"{100 * part.mean():.2f}" for part in right)
            lost = 100 * (teacher.mean() - right.mean())
            seconds = np.median([t["seconds"] for t in trials])
            lines.append(f"| {label} | {how} | {each} | {100 * right.mean():.2f} | {lost:.2f} ({low:.2f} … {high:.2f}) | {seconds:.0f} |")
    return "\n".join(lines)


def interval(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the points between two, over the texts, seeds averaged."""
    return paired_interval(a[:, None], b[:, None], lambda rows: 100 * rows.mean(-2)[..., 0])


# -- popcount ----------------------------------------------------------------------------------------------------

SHAPES = ((25, 384, 384), (25, 384, 1536), (128, 768, 768), (128, 768, 3072))
"""Tokens, inputs and outputs of a layer: MiniLM's at 25 tokens, BERT-base's at 128."""
REPEATS = 200


def popcount() -> None:
    """Milliseconds of one product on one thread, the fastest of `REPEATS`: float32, int8, signs whose inputs are packed each time."""
    import metal_worker

    metal_worker.THREADS = 1
    torch.set_num_threads(1)
    print("| tokens × inputs × outputs | float32 (PyTorch) | int8 (ONNX Runtime) | popcount (numpy) | of that packing |")
    print("| --- | --- | --- | --- | --- |")
    for n, k, m in SHAPES:
        random = np.random.default_rng(0)
        x, w = (random.normal(size=(rows, k)).astype(np.float32) for rows in (n, m))
        a, b = torch.from_numpy(x), torch.from_numpy(w)
        packed = pack_signs(w)
        signs = [np.where(v >= 0, 1.0, -1.0).astype(np.float32) for v in (x, w)]
        assert np.array_equal(sign_product(pack_signs(x), packed, k), signs[0] @ signs[1].T)
        u8, s8 = random.integers(0, 128, (n, k), np.uint8), random.integers(-127, 128, (k, m), np.int8)
        calls = [
            lambda a=a, b=b: a @ b.T, metal_worker.onnxruntime_call("MatMulInteger", u8, s8, 1.0),
            lambda x=x, packed=packed, k=k: sign_product(pack_signs(x), packed, k), lambda x=x: pack_signs(x),
        ]  # fmt: skip
        cells = " | ".join(f"{min(metal_worker.times_ms(call, REPEATS, 0.6)):.3f}" for call in calls)
        print(f"| {n} × {k} × {m} | {cells} |", flush=True)


JOBS = {"trained": trained, "popcount": popcount}

if __name__ == "__main__":
    run(JOBS, table)

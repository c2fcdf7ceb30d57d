"""Pruning on real data: the figures of docs/pruning.md, with the commands that a user types.

    python benchmarks/pruning.py [free] [big] [plot] [distilled] [gradual] [sparse] [vocabulary]

Data and the SST-2 teacher are read in place from ../shared (or PENJING_SHARED), the other teachers are those of
main_job.py; results go to .cache/bench/pruning/, where a run that was stopped goes on. `plot` writes docs/pruning.svg.
About an hour in all; `free`, `big` and `plot` time things, so leave the machine alone meanwhile.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CACHE, ROOT, SST2, data, penjing, run, teacher

HERE = CACHE / "pruning"
TASKS = {"sst2": "classification", "mrpc": "pair", "conll2000": "tagging"}
LEVELS = (0.7, 0.5)
RANDOM_SEEDS = (0, 1, 2)
TEXTS = 1000


def model_of(name: str) -> Path:
    """The teacher of a data set."""
    options = {"mrpc": ["--epochs", 5], "conll2000": ["--epochs", 4, "--learning-rate", "1e-4"]}.get(name, [])
    return SST2 if name == "sst2" else teacher(name, TASKS[name], *options, "--max-length", 128)


def prune(name: str, out: str, *options: object, model: Path | None = None) -> None:
    """One `penjing prune`, on dev where there is one."""
    dev = ["--eval", data(name, "dev")] if data(name, "dev").is_file() else []
    penjing(
        "prune", "--model", model or model_of(name), "--task", TASKS[name], "--train", data(name, "train"), *dev,
        "--test", data(name, "test"), "--max-length", 128, "--out", HERE / out, *options,
    )  # fmt: skip


def free() -> None:
    """Half the multiply-accumulates, without training."""
    for name in TASKS:
        prune(name, f"{name}-half", "--macs", 0.5, "--no-training")


def distilled() -> None:
    """The same, and one epoch of distillation."""
    for name in TASKS:
        prune(name, f"{name}-half-distilled", "--macs", 0.5, "--epochs", 1)


def gradual() -> None:
    """The same share, by gates that are learned while the model is distilled."""
    prune("sst2", "sst2-half-gradual", "--macs", 0.5, "--schedule", "gradual", "--epochs", 1)


def sparse() -> None:
    """Nine weights in ten to zero, gradually."""
    prune("sst2", "sst2-sparse90", "--sparsity", 0.9, "--epochs", 2)


def vocabulary() -> None:
    """Only the tokens that the training texts produce."""
    for name in TASKS:
        prune(name, f"{name}-vocabulary", "--vocab", 0, "--no-training")


def big() -> None:
    """A BERT-base with random weights through the training-free path: minutes, and memory of the process and its children."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = HERE / "base-shaped"
    if not (folder / "config.json").is_file():
        BertForSequenceClassification(BertConfig(num_labels=2, id2label={0: "negative", 1: "positive"})).save_pretrained(folder)
        AutoTokenizer.from_pretrained(SST2).save_pretrained(folder)
    most, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            most[0] = max(most[0], memory_of_children(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    try:
        prune("sst2", "base-shaped-half", "--macs", 0.5, "--no-training", model=folder)
    finally:
        done.set()
        watcher.join()
    found = {"minutes": (time.monotonic() - start) / 60, "peak_gb": most[0] / 1e9}
    (HERE / "base-shaped.json").write_text(json.dumps(found))
    print(f"BERT-base-shaped: {found['minutes']:.1f} minutes, {found['peak_gb']:.2f} GB at most")


def memory_of_children(process: int) -> float:
    """Bytes that the descendants of a process hold, pages that they share counted in parts."""
    total = 0.0
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        try:
            rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
            total += 1024 * float(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
            total += memory_of_children(int(child))
        except (OSError, StopIteration):
            continue
    return total


# -- each importance, at equal multiply-accumulates, against the clock ------------------------------------------------


def plot() -> None:
    """Quality against measured latency of every importance, and of plain re-implementations, on SST-2."""
    import tempfile

    import torch

    from penjing.engines.clock.measure import Sampling, Subject, measure
    from penjing.engines.form import FLOAT_FORMS
    from penjing.engines.onnx.export import export
    from penjing.files.records import to_json
    from penjing.model.building import blueprint_of
    from penjing.model.checkpoint import read
    from penjing.model.surgery import cut
    from penjing.search.budget import choose
    from penjing.steps.cut.criteria import CRITERIA
    from penjing.steps.cut.prune import Prune, PruneSettings
    from penjing.steps.cut.repair import repair
    from penjing.tasks.judging import judge
    from penjing.tasks.sources import Reading, load_data
    from penjing.training.predict import logits_of

    torch.set_num_threads(os.cpu_count() or 1)
    found = load_data(str(SST2), "classification", str(data("sst2", "train")), str(data("sst2", "dev")), Reading(max_length=128), print)
    whole = read(SST2, head="sequence", labels=found.task.labels)
    blueprint, length = blueprint_of(whole), int(np.median(found.eval.encoded.lengths))
    rows = np.sort(np.random.default_rng(0).permutation(len(found.train))[:TEXTS])
    texts = found.train.take(rows)
    points: list[dict[str, Any]] = []

    def add(group: str, name: str, level: float, model: Any, seconds: float = 0.0) -> None:
        macs = blueprint_of(model).macs(length) / blueprint.macs(length)
        quality = judge(found.task, found.eval, logits_of(model, found.eval.encoded))
        points.append({"group": group, "name": name, "level": level, "macs": macs, "seconds": seconds, **to_json(quality), "model": model})
        print(f"{group:>8} {name:>14} {macs:.2f} of the MACs: {quality.quality:.2f} ({seconds:.0f} s)", flush=True)

    add("teacher", "teacher", 1.0, whole)
    for name, criterion in CRITERIA.items():
        for seed in RANDOM_SEEDS if name == "random" else (0,):
            start = time.monotonic()
            importance = criterion.score(whole, found.task, texts, seed)
            seconds = time.monotonic() - start
            for level in LEVELS:
                selection = choose(PruneSettings(macs=level, importance=name), blueprint, importance, length)
                add("ours", name, level, repair(cut(whole, selection), whole, selection, texts.encoded)[0], seconds)
                if criterion.comparable:
                    add("unrepaired", name, level, cut(whole, selection), seconds)
    depth = Prune(found.task, CRITERIA["fisher"].score, texts.encoded).observe(whole, texts)
    for layers in (4, 3):
        selection = choose(PruneSettings(layers=layers), blueprint, depth, length)
        add("depth", f"{layers} layers", layers / 6, repair(cut(whole, selection), whole, selection, texts.encoded)[0])
    for name, scores in [*((f"random {s}", random_scores(blueprint, s)) for s in RANDOM_SEEDS), ("magnitude", magnitudes(whole)),
                         ("Michel", michel(whole, found.task, texts))]:  # fmt: skip
        for level in LEVELS:
            add("plain", name, level, cut(whole, halve(blueprint, scores, level)))

    form = FLOAT_FORMS[0]
    with tempfile.TemporaryDirectory() as folder:
        subjects = []
        for i, point in enumerate(points):
            export(point.pop("model"), Path(folder) / str(i), [form.file], segments=False)
            subjects.append(Subject(form, Path(folder) / str(i)))
        measured = measure(subjects, found.eval.encoded, threads=os.cpu_count() or 1, sampling=Sampling(throughput_texts=0))
    for point, each in zip(points, measured, strict=True):
        point["latency_ms"] = each.latency_ms
        point["rounds_ms"] = [float(np.median(ms)) for ms in each.rounds_ms]
    HERE.mkdir(parents=True, exist_ok=True)
    (HERE / "plot.json").write_text(json.dumps(points, indent=1))
    (ROOT / "docs" / "pruning.svg").write_text(drawing(points), encoding="utf-8")


Parts = tuple[list[Any], list[Any]]
"""Plain scores of heads and of neurons, an array per layer."""


def random_scores(blueprint: Any, seed: int) -> Parts:
    """Plain: random numbers."""
    generator = np.random.default_rng(seed)
    return [generator.random(layer.heads) for layer in blueprint.layers], [generator.random(layer.neurons) for layer in blueprint.layers]


def magnitudes(model: Any) -> Parts:
    """Plain: the Euclidean norm of all weights of a head, and of a neuron."""
    heads, neurons = [], []
    for layer in model.encoder.layers:
        a, f = layer.attention, layer.feed_forward
        inner = [a.query.weight, a.key.weight, a.value.weight, a.output.weight.T]
        heads.append(np.sqrt(sum((w.detach().numpy() ** 2).reshape(a.heads, -1).sum(1) for w in inner)))
        neurons.append(np.sqrt(sum((w.detach().numpy() ** 2).sum(1) for w in (f.up.weight, f.down.weight.T))))
    return heads, neurons


def michel(model: Any, task: Any, texts: Any) -> Parts:
    """Plain: E|∂L/∂ξ| with an explicit gate ξ = 1 for each text, head and neuron, normalised per layer (Michel et al. 2019)."""
    import torch

    labels = np.concatenate(task.targets(texts))
    sums: dict[tuple[int, str], Any] = {}
    for rows in texts.encoded.exact_batches(32):
        gates: dict[tuple[int, str], Any] = {}
        hooks = []
        for i, layer in enumerate(model.encoder.layers):
            closings = (("heads", layer.attention.output, layer.attention.width), ("neurons", layer.feed_forward.down, 1))
            for kind, closing, width in closings:
                gate = gates[i, kind] = torch.ones(len(rows), closing.in_features // width, requires_grad=True)
                wide = gate.repeat_interleave(width, 1)[:, None]
                hooks.append(closing.register_forward_pre_hook(lambda _, inputs, wide=wide: (inputs[0] * wide,)))
        feeds = {name: torch.from_numpy(value) for name, value in texts.encoded.feeds(rows).items()}
        torch.nn.functional.cross_entropy(model(**feeds).logits, torch.from_numpy(labels[rows]), reduction="sum").backward()
        for key, gate in gates.items():
            sums[key] = sums.get(key, 0) + gate.grad.abs().sum(0).numpy()
        for hook in hooks:
            hook.remove()
    model.zero_grad()
    count = len(model.encoder.layers)
    heads, neurons = ([sums[i, kind] / np.linalg.norm(sums[i, kind]) for i in range(count)] for kind in ("heads", "neurons"))
    return heads, neurons


def halve(blueprint: Any, scores: Parts, part: float) -> Any:
    """Plain: the best `part` of all heads and of all neurons."""
    from penjing.selection import LayerSelection, Selection

    kept = []
    for each in scores:
        flat = np.concatenate(each)
        threshold = np.sort(flat)[::-1][round(part * len(flat)) - 1]
        kept.append([tuple(int(i) for i in np.flatnonzero(row >= threshold)) for row in each])
    return Selection(tuple(LayerSelection(i, *pair) for i, pair in enumerate(zip(*kept, strict=True))))


COLOURS = {"teacher": "#444444", "ours": "#2f7d4f", "unrepaired": "#7fb894", "depth": "#b0722a", "plain": "#8a8a8a"}
WORDS = {
    "teacher": "the teacher",
    "ours": "Penjing: each importance, repaired",
    "unrepaired": "Penjing, not repaired",
    "depth": "Penjing: whole layers, repaired",
    "plain": "plain re-implementations, not repaired",
}


LOW, HIGH, TOP, HEIGHT, PLOT, LABELS = 68, 93, 50, 420, 330, 210
"""Points of accuracy at the foot and head of a panel; pixels."""


def drawing(points: list[dict[str, Any]]) -> str:
    """Accuracy with its 95 % interval against milliseconds, a panel for each share of the multiply-accumulates, as an SVG."""
    width, foot = 2 * (PLOT + LABELS) + 90, TOP + HEIGHT
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {foot + 90}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{foot + 90}" fill="white"/>']  # fmt: skip
    for i, level in enumerate(LEVELS[::-1]):
        shown = [
            p for p in points if p["level"] == level or p["group"] == "teacher" or (p["group"] == "depth" and abs(p["level"] - level) < 0.1)
        ]
        out += panel(shown, 45 + i * (PLOT + LABELS + 35), f"{level:g} of the multiply-accumulates")
    for i, (group, words) in enumerate(WORDS.items()):
        out.append(f'<circle cx="{50 + 215 * i}" cy="{foot + 72}" r="5" fill="{COLOURS[group]}"/>')
        out.append(f'<text x="{60 + 215 * i}" y="{foot + 76}" font-size="11">{words}</text>')
    return "\n".join([*out, "</svg>", ""])


def panel(points: list[dict[str, Any]], left: float, title: str) -> list[str]:
    """One plot with its labels beside it, in the order of the accuracies."""
    least, most = (f(p["latency_ms"] for p in points) for f in (min, max))
    least, most, foot = least - 0.08, most + 0.08, TOP + HEIGHT

    def x(ms: float) -> float:
        return left + (ms - least) / (most - least) * PLOT

    def y(value: float) -> float:
        return TOP + (HIGH - max(LOW, min(HIGH, value))) / (HIGH - LOW) * HEIGHT

    out = [f'<text x="{left}" y="{TOP - 26}" font-weight="bold">{title}</text>',
           f'<text x="{left}" y="{TOP - 10}" font-size="11">accuracy on SST-2 dev, 95 % intervals</text>',
           f'<text x="{left + PLOT / 2}" y="{foot + 38}" text-anchor="middle">ms a text, ONNX Runtime float32, batch 1</text>']  # fmt: skip
    for value in range(70, 95, 5):
        out.append(f'<line x1="{left}" x2="{left + PLOT}" y1="{y(value)}" y2="{y(value)}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{left - 6}" y="{y(value) + 4}" text-anchor="end" font-size="11">{value}</text>')
    for tick in range(int(np.ceil(least / 0.25)), int(most / 0.25) + 1):
        out.append(f'<text x="{x(tick * 0.25):.1f}" y="{foot + 18}" text-anchor="middle" font-size="11">{tick * 0.25:g}</text>')
    for i, p in enumerate(sorted(points, key=lambda p: -p["quality"])):
        colour, px, py, ty = COLOURS[p["group"]], x(p["latency_ms"]), y(p["quality"]), TOP + 8 + i * (HEIGHT - 8) / max(1, len(points) - 1)
        low, high = (y(value) for value in p["quality_ci95"])
        out.append(
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-opacity="0.4" stroke-width="2"/>'
        )
        out.append(f'<polyline points="{px:.1f},{py:.1f} {left + PLOT + 6},{ty - 4:.1f} {left + PLOT + 14},{ty - 4:.1f}" fill="none" '
                   f'stroke="{colour}" stroke-opacity="0.45" stroke-width="0.6"/>')  # fmt: skip
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}"/>')
        out.append(
            f'<text x="{left + PLOT + 18}" y="{ty:.1f}" fill="{colour}" font-size="11">{p["name"]}: {p["quality"]:.1f}, {p["latency_ms"]:.2f} ms</text>'
        )
    return out


JOBS = {"free": free, "big": big, "plot": plot, "distilled": distilled, "gradual": gradual, "sparse": sparse, "vocabulary": vocabulary}


def table() -> str:
    """What is in .cache/bench/pruning, as Markdown."""
    lines = ["| run | metric | teacher | pruned | lost (95 %) | test lost (95 %) | MACs | uncut | pruned | faster than uncut: own / 16 / 64 / 128 tokens | seconds to prune |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for path in sorted(HERE.glob("*/report.json")):
        report = json.loads(path.read_text())
        t, r, test = report["teacher"], report["result"], report["tests"][0]

        def lost(row: dict[str, Any]) -> str:
            return f"{row['drop']:.2f} ({row['drop_ci95'][0]:.2f} … {row['drop_ci95'][1]:.2f})"

        shapes = " / ".join(f"{row['speedup']:.2f}×" for row in report["shapes"])  # own lengths first
        steps = ("observe", "plan", "prune", "vocabulary", "sparsify", "gradual", "distill")
        seconds = sum(step["seconds"] for step in report["steps"] if step["name"] in steps)
        lines.append(
            f"| {path.parent.name} | {report['metric']} | {t['quality']:.2f} | {r['quality']:.2f} | {lost(r)} | {lost(test)} | {r['macs']:.2f} "
            f"| {t['latency_ms']:.2f} ms eager | {r['latency_ms']:.2f} ms {r['form']} | {shapes} | {seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(JOBS, table)

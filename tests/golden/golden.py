"""The golden run: commands as a user types them on tiny models, and hashes of what they write and choose.

    python tests/golden/golden.py --check            every run against hashes.json; --only NAME (also as compress-*) for some
    python tests/golden/golden.py --write            keep what the runs give now
    python tests/golden/golden.py --show NAME        what one run gives, whole

Which code is run is for PYTHONPATH to say. Nothing is timed: what a model takes is read off its weights (worker.py).
On a machine of the same kind (`key`) all is compared exactly; on another what hangs on no last bit of a sum: structure, and norms.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE / "hashes.json"
NEAR, LEAST = 1e-3, 2e-3
"""How far a norm may be from the kept one on a machine of another kind: as a part of it; and by the root mean square, for what is near 0."""
EDGY = 0.1
"""The part where one weight more or less beyond an edge changes what it is: single weights that go by learned scores, codebooks."""

FIXED = {
    "ATEN_CPU_CAPABILITY": "default", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1", "KMP_DUPLICATE_LIB_OK": "TRUE", "MKL_CBWR": "COMPATIBLE", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "1", "PENJING_WAIT": "0", "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_OFFLINE": "1", "COLUMNS": "200",
}  # fmt: skip
"""The environment of every run: one thread, the arithmetic that all processors have, no network. oneDNN is left alone: OpenVINO does not
compile what it should where ONEDNN_MAX_CPU_ISA says SSE41 or AVX2."""


@dataclass(frozen=True)
class Golden:
    """A command: `{…}` in its options are files that material.py makes. task: of the teacher and the data."""

    command: str
    options: str
    task: str = "classification"
    recipe: str = ""
    """YAML, given by --recipe."""
    near: float = NEAR
    """How far, as a part of it, a tensor's norm may be from the kept one on a machine of another kind."""


def _runs() -> Iterator[tuple[str, Golden]]:
    """Every run by name: one of each kind of planning, cutting, rounding and teaching."""

    def compress(name: str, options: str, task: str = "classification", recipe: str = "") -> tuple[str, Golden]:
        return f"compress-{name}", Golden("compress", options, task, recipe)

    def prune(name: str, options: str, task: str = "classification", near: float = NEAR) -> tuple[str, Golden]:
        return f"prune-{name}", Golden("prune", options, task, near=near)

    def quantize(name: str, options: str = "", task: str = "classification", near: float = NEAR) -> tuple[str, Golden]:
        return f"quantize-{name}", Golden("quantize", f"--scheme {name.split('+')[0]} {options}", task, near=near)

    def distill(name: str, options: str, task: str = "classification") -> tuple[str, Golden]:
        return f"distill-{name}", Golden("distill", options if options.startswith(ALONE) else f"{options} {ONE}", task)

    yield compress("speedup", f"--speedup 11 --epochs 1 --test {{test}} {ONE}")
    yield compress("latency-size-confidence", f"--latency-ms 0.2 --size-mb 5 --max-drop 60 --confidence 0.9 --no-training {ONE}")
    yield compress("drop", "--max-drop 1 --epochs 2")
    yield compress("size", f"--size-mb 0.061 --max-drop 100 --epochs 1 {ONE}")
    yield compress("store", f"--size-mb 0.056 --no-training {ONE}", recipe="store: {scheme: linear, bits: 4, group: 16}\nquantize: false")
    yield compress("factorise", f"--size-mb 0.0042 {ONE}", recipe=FACTORS)
    yield compress("depths", f"--max-drop 1 --confidence 0.95 --no-training {ONE}", "tagging")
    yield compress("nothing", ONE)
    yield compress("unlabelled-tagging", f"--train {{bare}} --max-drop 100 --epochs 1 {ONE}", "tagging")
    yield compress(
        "pair", f"--max-drop 100 --confidence 0.95 --engine openvino --epochs 1 {ONE.replace('onnxruntime', 'openvino')}", "pair"
    )
    yield compress("torch", "--size-mb 5 --no-training --engine torch")
    yield compress("recipe", f"--max-drop 100 {ONE}", recipe=RECIPE)
    yield compress("recipe-halves", ONE, recipe=HALVES)
    yield compress("recipe-student", "", recipe="student: logistic\ndistill: {losses: {kl: 1.0}}")

    yield prune("macs-fisher", f"--macs 0.5 --epochs 1 {ONE}")
    yield prune("macs-fisher-untrained", f"--macs 0.5 --no-training --test {{test}} {ONE}")
    yield prune("macs-obs", f"--macs 0.4 --importance obs --epochs 1 --texts 32 {ONE}", "tagging")
    yield prune("macs-obs-untrained", f"--macs 0.6 --importance obs --no-training --repair scales --texts 32 {ONE}")
    yield prune("macs-gates-untrained", f"--macs 0.6 --importance gates --no-training --texts 48 {ONE}")
    yield prune("latency-block-fisher", f"--latency 0.6 --importance block-fisher --no-training {ONE}")
    yield prune("blocks", f"--blocks 0.5 --importance taylor --no-training --repair none {ONE}")
    yield prune("layers", f"--layers 2 --importance magnitude --epochs 1 {ONE}")
    yield prune("hidden", f"--hidden 0.5 --importance gradient --epochs 1 {ONE}", "pair")
    yield prune("vocab", f"--vocab 0 --corpus {{corpus}} --no-training {ONE}")
    yield prune("vocab-part", f"--vocab 0.5 --neurons 0.5 --importance lrp --scope layer --epochs 1 --test {{test}} {ONE}", "tagging")
    yield prune("head-weights", f"--heads 0.5 --importance activation --head-weights --no-training {ONE}")
    yield prune("random", f"--neurons 0.25 --heads 0.5 --importance random --no-training --max-drop 100 {ONE}")
    yield prune("magnitude-l1", f"--neurons 0.5 --importance magnitude-l1 --no-training {ONE}")
    yield prune("gradual", f"--macs 0.5 --schedule gradual --epochs 3 {ONE}")
    yield prune("sparsity", f"--sparsity 0.6 --no-training --scope row --embeddings {ONE}")
    yield prune("sparsity-gradual", f"--sparsity 0.8 --neurons 0.5 --vocab 0 --importance magnitude --epochs 2 {ONE}")
    yield prune("sparsity-movement", f"--sparsity 0.7 --importance movement --schedule iterative --scope layer --epochs 2 {ONE}", near=EDGY)
    yield prune("sparsity-regrow", f"--stored-mb 0.08 --importance regrow --epochs 2 {ONE}")

    yield quantize("dynamic-int8", "", "pair")
    yield quantize("static-int8", "--max-drop 50 --divergence 0.00001")
    yield quantize("static-int8+smooth", f"--calibration entropy --smooth 0.5 {ONE}")
    yield quantize("qat-int8", f"--epochs 2 {ONE}", "tagging")
    yield quantize("qat-dynamic-int8", f"--epochs 1 {ONE}")
    yield quantize("linear", f"--bits 3 --group 16 --clip percentile {ONE}")
    yield quantize("linear+trained", f"--bits 4 --activation-bits 8 --epochs 1 {ONE}")
    yield quantize("affine", f"--bits 5 --clip none {ONE}", "tagging")
    yield quantize("log", f"--bits 4 --group 0 {ONE}")
    yield quantize("kmeans", f"--bits 3 {ONE}", "pair", near=EDGY)
    yield quantize("ternary", f"--epochs 2 {ONE}")
    yield quantize("binary", f"--epochs 1 {ONE}")
    yield quantize("mixed", f"--bits 4 {ONE}")

    yield distill("states", f"--preset states --layers 2 --epochs 2 {FAST}")
    yield distill("labels", f"--preset labels --layers 2 --keep measured --epochs 2 {FAST}")
    yield distill("hinton", f"--preset hinton --layers 2 --keep last --epochs 2 --test {{test}} {FAST}")
    yield distill("distilbert", f"--preset distilbert --layers 1 --epochs 2 {FAST}")
    yield distill("pkd", f"--preset pkd --layers 2 --epochs 2 {FAST}")
    yield distill("tinybert", f"--preset tinybert --layers 2 --hidden 0.5 --epochs 2 --general {{plain}} --general-texts 80 {FAST}")
    yield distill("minilm", f"--preset minilm --layers 2 --neurons 0.5 --relation-heads 4 --epochs 2 {FAST}")
    yield distill("cofi", f"--preset cofi --layers 2 --heads 0.5 --epochs 2 {FAST}", "tagging")
    yield distill("levels", f"--preset levels --layers 2 --levels 2 --epochs 2 {FAST}")
    yield distill("bilstm", "--preset bilstm --epochs 2", "tagging")
    yield distill("bilstm-pair", "--preset bilstm --epochs 1 --losses mse=1,hard=0.5", "pair")
    yield distill("logistic", "--preset logistic")
    yield distill("trees", "--preset trees")
    yield distill("static", "--preset static", "pair")
    texts = "--unlabelled {more} --augment neighbours --copies 2 --part 0.6 --sample uncertain"
    yield distill("unlabelled-teachers", f"--layers 1 --teacher {{other}} {texts} --epochs 1 {FAST}", "tagging")
    yield distill("rules-anneal", f"--layers 2 --augment rules --losses kl=1,hard=1,tokens=1 --anneal --epochs 2 {FAST}")
    yield distill("masked-lm", f"--preset hinton --layers 1 --augment masked-lm --masked-lm {{masked}} --epochs 1 {FAST}")
    yield distill("with", f"--layers 1 --with {{companion}} --losses kl=1,hidden=1,hard=1 --epochs 1 {FAST}")
    yield distill(
        "student", f"--student {{small}} --losses kl-entropy=1,relations=1,rkd-distance=1,rkd-angle=1 --alpha 0.1 --epochs 1 {FAST}"
    )
    yield distill(
        "noise", f"--layers 2 --noise 0.1 --draws 2 --losses cross-entropy=1,fsp=1,nst=1,cosine=1 --temperature 2 --epochs 1 {FAST}", "pair"
    )


ONE = "--engine onnxruntime"
ALONE = tuple(f"--preset {student}" for student in ("bilstm", "logistic", "trees", "static"))
"""Students that have engines of their own."""
FAST = "--learning-rate 2e-3"
RECIPE = """
prune: {layers: 2, heads: 0.5, neurons: 0.5, importance: fisher, repair: weights, keep: uniform, texts: 40}
texts: {part: 0.8, by: mixed, copies: 1, how: neighbours}
distill:
  losses: {kl: 1.0, states: 1.0}
  temperature: 2.0
  schedule: {epochs: 2, batch_size: 16, learning_rate: 1e-3, evaluations: 1, least_steps: 12}
quantize: {scheme: static, texts: 32, calibration: moving-average, divergence: 0.05}
"""
FACTORS = "prune: false\ndistill: false\nstore: {scheme: linear, bits: 4, group: 16}\nquantize: false"
HALVES = """
prune: false
distill: {schedule: {epochs: 2, batch_size: 16, learning_rate: 1e-3, least_steps: 0}}
store: {scheme: ternary, training: true, halves: true, squash: true, group: 0}
quantize: false
"""
RUNS = dict(_runs())
EVERYWHERE = "--threads 1 --max-length 24"


class Worker:
    """A process of the fixed environment that does one run after another, each in a fork of its own, in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **FIXED, "HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules")}
        for name in [name for name in environment if name.startswith(("COV_", "PYTEST_", "ONEDNN_", "DNNL_"))]:
            del environment[name]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, name: str) -> dict[str, Any]:
        """What the run of this name gives ("": the key of the machine)."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name}: the worker died with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}\n{answer.get('traceback', '')}")
        return answer

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def kept() -> dict[str, Any]:
    """What hashes.json holds: `key` and `runs`."""
    content: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return content


def differences(before: dict[str, Any], now: dict[str, Any], same_kind: bool, near: float = NEAR) -> list[str]:
    """Where a run differs from what is kept of it, in words."""
    parts = ("structure", "figures") if same_kind else ("structure",)
    found = [line for part in parts for line in _unlike(before[part], now[part], part)]
    if same_kind:
        return found
    sizes = before["norms"], now["norms"]
    if len(sizes[0]) != len(sizes[1]):
        return [*found, f"norms: {len(sizes[0])} tensors -> {len(sizes[1])}"]
    for i, ((norm, count), (other, _)) in enumerate(zip(*sizes, strict=True)):
        if abs(norm - other) > max(near * norm, LEAST * count**0.5):
            found.append(f"norms: tensor {i} (by name) {norm} -> {other}")
    return found


def _unlike(before: Any, now: Any, where: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [line for name in names for line in _unlike(before.get(name), now.get(name), f"{where}: {name}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [line for i, pair in enumerate(zip(before, now, strict=True)) for line in _unlike(*pair, f"{where}: {i}")]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]


def run_all(names: Sequence[str], jobs: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """The key, the results by name and the seconds of each, by so many workers."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in names:
        waiting.put(name)
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    keys: list[dict[str, Any]] = []
    lock = threading.Lock()

    def work(folder: Path) -> None:
        worker = Worker(folder)
        try:
            keys.append(worker.ask(""))
            while True:
                with lock:
                    if waiting.empty():
                        return
                    name = waiting.get()
                began = time.perf_counter()
                try:
                    results[name] = worker.ask(name)
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                seconds[name] = time.perf_counter() - began
        finally:
            worker.close()

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work, Path(folder) / str(i)) for i in range(jobs)]:
            done.result()
    return keys[0], {name: results[name] for name in names if name in results}, seconds


def main() -> int:
    """Write, check or show; 0 where all is as it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    what.add_argument("--show", metavar="NAME")
    parser.add_argument("--only", metavar="NAME", action="append", help="a name, or a pattern as compress-*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--loose", action="store_true", help="compare as on a machine of another kind")
    given = parser.parse_args()
    wanted = [given.show] if given.show else given.only or ["*"]
    names = [name for name in RUNS if any(fnmatch.fnmatch(name, each) for each in wanted)]
    if not names:
        parser.error(f"no run is called {', '.join(wanted)}")
    began = time.perf_counter()
    key, results, seconds = run_all(names, min(given.jobs, len(names)))
    if given.show:
        print(json.dumps(results, indent=1))
        return 0
    if given.write and len(results) == len(names):
        before = kept() if given.only else {"key": key, "runs": {}}
        if before["key"] != key:
            parser.error("hashes.json is of a machine of another kind; write all runs")
        runs = {name: (before["runs"] | results)[name] for name in RUNS if name in before["runs"] | results}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}" for name, run in runs.items())
        KEPT.write_text(f'{{"key": {json.dumps(key)},\n"runs": {{\n{lines}\n}}}}\n', encoding="utf-8")
    failed = len(names) - len(results)  # what went wrong is said above
    if given.check:
        before = kept()
        same_kind = before["key"] == key and not given.loose
        print("compared exactly" if same_kind else "a machine of another kind: structure and norms alone are compared")
        for name, result in results.items():
            for line in differences(before["runs"][name], result, same_kind, RUNS[name].near):
                failed += 1
                print(f"{name}: {line}")
    slowest = sorted(seconds.items(), key=lambda pair: -pair[1])[:8]
    print(f"{len(names)} runs, {time.perf_counter() - began:.0f} s; {failed} differences; " + ", ".join(f"{n} {s:.1f}" for n, s in slowest))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

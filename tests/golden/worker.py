"""The process that golden runs happen in: one name a line comes in, one JSON object a line goes out. See golden.py.

Each run is a fork of this process, which has imported everything and done nothing, so no run sees what another left behind.
"""

import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import io
import json
import math
import os
import pkgutil
import platform
import re
import shutil
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from golden import EVERYWHERE, FIXED, RUNS
from material import Material
from onnx import numpy_helper
from safetensors import safe_open

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "transformers", "tokenizers", "safetensors", "scikit-learn")
FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
         "asimd", "asimddp", "i8mm", "bf16")  # fmt: skip
TOLD = ("quality", "drop", "drop_ci95", "drop_at_most", "p_value", "bytes", "macs", "float_quality", "speedup_vs_eager", "speedup_range", "steady",
        "engine", "float_layers", "temperature", "latency_ms", "latency_p99_ms", "end_to_end_ms", "throughput_per_s", "held_out_quality", "loss")  # fmt: skip
"""What is kept of the report's result."""
SECTIONS = (
    "teacher",
    "baselines",
    "forms",
    "scores",
    "flipped",
    "overlap",
    "held_out",
    "tests",
    "shapes",
    "stored",
    "workload",
    "metric_said",
)
"""Parts of the report of which a hash is kept."""
FLEETING = ("dense_load_s", "packed_load_s", "seconds", "disturbance")


# -- the clock -----------------------------------------------------------------------------------------------------


def tell_the_clock() -> None:
    """In place of `measure`, a quiet machine on which a form takes what its weights and the text's tokens say.

    THE ONE PLACE that knows a module of Penjing below the command line. It has to come before anything imports `measure` by name.
    """
    from penjing.engines.clock import measure as measuring
    from penjing.engines.clock.measurement import Measurement, Turn

    def measure(
        subjects: Sequence[Any], encoded: Any, *, sampling: Any = measuring.Sampling(), raw: Any = None, **options: Any
    ) -> list[Any]:
        def of(subject: Any) -> Any:
            lengths = (encoded if subject.encoded is None else subject.encoded).lengths
            ms = milliseconds(subject.form, subject.folder, lengths)
            whole = [] if raw is None else [each + 0.05 for each in ms]
            turns = [Turn(i, ms, whole) for i in range(sampling.rounds)]
            per_s = [1000 / float(np.mean(ms))] if sampling.throughput_texts else []
            return Measurement(0.1, 0.2, 50.0, sampling.rounds, turns, per_s)

        return [of(subject) for subject in subjects]

    measuring.measure = measure  # type: ignore[assignment]


ENGINES = {"torch": 3.0, "onnxruntime": 1.0, "openvino": 1.1, "numpy": 0.5}


def milliseconds(form: Any, folder: Path, lengths: Any) -> list[float]:
    """Of each text: a function of the form's name and engine, the bytes of its numbers and the text's tokens."""
    place = folder / form.file
    if form.packed:
        place = folder / "weights.safetensors"
    elif place.is_dir():
        place = next(each for each in (place / "model.safetensors", place / "packed.safetensors") if each.is_file())
    size = sum(array.nbytes for array in arrays_of(place).values())
    each = ENGINES[form.engine] * (0.9 if form.bfloat16 else 1.0) * (0.95 if form.bucket else 1.0)
    return [0.02 + 1e-3 * len(form.name) + 1e-6 * each * size * float(length) for length in lengths]


# -- hashes --------------------------------------------------------------------------------------------------------


def digest(*parts: Any) -> str:
    """Of bytes, and of JSON."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, ensure_ascii=False).encode())
        whole.update(b"\0")
    return whole.hexdigest()[:20]


def rounded(value: Any) -> Any:
    """JSON with six digits of every number, and without what is never the same twice."""
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items() if name not in FLEETING}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return (float(f"{value:.6g}") if math.isfinite(value) else str(value)) if isinstance(value, float) else value


def arrays_of(path: Path) -> dict[str, Any]:
    """The numbers of a file, by name."""
    if path.suffix == ".onnx":
        return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}


def hash_of_arrays(arrays: Mapping[str, Any]) -> str:
    """By name, type, shape and bytes."""
    return digest(*(each for name in sorted(arrays) for each in (_form(name, arrays[name]), np.ascontiguousarray(arrays[name]).tobytes())))


def _form(name: str, array: Any) -> list[Any]:
    return [name, str(array.dtype), list(array.shape)]


def graph_of(path: Path) -> list[Any]:
    """What an ONNX file computes, but for its numbers."""
    model = onnx.load(path)
    graph = model.graph

    def attribute(each: Any) -> list[Any]:
        value = onnx.helper.get_attribute_value(each)
        if isinstance(value, onnx.TensorProto):
            return [each.name, digest(_form("", numpy_helper.to_array(value)), numpy_helper.to_array(value).tobytes())]
        return [each.name, repr(value)]

    def port(each: Any) -> list[Any]:
        kind = each.type.tensor_type
        return [each.name, kind.elem_type, [size.dim_param or size.dim_value for size in kind.shape.dim]]

    nodes = [[n.domain, n.op_type, list(n.input), list(n.output), sorted(map(attribute, n.attribute))] for n in graph.node]
    opsets = sorted([each.domain, each.version] for each in model.opset_import)
    shapes = [_form(each.name, numpy_helper.to_array(each)) for each in graph.initializer]
    return [model.ir_version, opsets, [port(each) for each in graph.input], [port(each) for each in graph.output], nodes, sorted(shapes)]


def decoded(folder: Path, task: str) -> dict[str, Any]:
    """The weights of a model folder by name, as transformers loads them where they are packed."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return arrays_of(whole)
    if not (folder / "config.json").is_file():
        return {}
    auto = transformers.AutoModelForTokenClassification if task == "tagging" else transformers.AutoModelForSequenceClassification
    return {name: value.numpy() for name, value in auto.from_pretrained(folder, trust_remote_code=True).state_dict().items()}


def without(value: Any, *names: str) -> Any:
    """JSON without these fields, at whatever depth."""
    if isinstance(value, dict):
        return {name: without(each, *names) for name, each in value.items() if name not in names}
    return [without(each, *names) for each in value] if isinstance(value, list) else value


def of_folder(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The shapes, and the hashes, of the files of a folder that hold what is computed."""
    shapes: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".onnx":
            shapes[name] = digest(graph_of(path))
            hashes[name] = hash_of_arrays(arrays_of(path))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                about = {key: without(_json(value), "crc32") for key, value in (file.metadata() or {}).items()}
            arrays = arrays_of(path)
            shapes[name] = (
                digest([_form(each, arrays[each]) for each in sorted(arrays)]) if "packed" not in name and "weights" not in name else ""
            )
            hashes[name] = digest(hash_of_arrays(arrays), about)
        elif path.name == "tokenizer.json":
            shapes[name] = digest(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            kept = without(content, "transformers_version", "penjing", "crc32", "digest", "version")
            shapes[name] = ""
            hashes[name] = digest(rounded(kept))
    return shapes, hashes


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# -- a run ---------------------------------------------------------------------------------------------------------


def command(arguments: Sequence[str]) -> tuple[int, str, str]:
    """How `penjing …` ends: its status, standard output and standard error."""
    from penjing import cli

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["penjing", *arguments]
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
    return int(status or 0), out.getvalue(), err.getvalue()


def result_of(name: str, folder: Path) -> dict[str, Any]:
    """Do a run, and what is kept of it."""
    golden, out = RUNS[name], folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    material = Material(folder / "material", golden.task)
    given = ["--model", material["teacher"], "--task", golden.task, "--train", material["train"], "--eval", material["eval"]]
    options = [re.sub(r"\{(\w+)\}", lambda found: material[found[1]], each) for each in golden.options.split()]
    if "--train" in options:
        del given[4:6]
    if golden.recipe:
        (folder / "recipe.yaml").write_text(golden.recipe, encoding="utf-8")
        options += ["--recipe", str(folder / "recipe.yaml")]
    torch.set_num_threads(1)
    status, said, error = command([golden.command, *given, "--out", str(out), *options, *EVERYWHERE.split()])
    if not (out / "report.json").is_file():
        raise RuntimeError(f"status {status}, {error.strip().splitlines()[-1:]}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    result, parts = report["result"], {each: of_folder(out / each) for each in ("model", "engine", "also") if (out / each).is_dir()}
    weights = decoded(out / "model", golden.task) or arrays_of(next((out / "model").glob("*.safetensors")))
    shutil.rmtree(out)
    masked = re.sub(r"loads in [\d.]+ -> [\d.]+ s", "loads", said.replace(str(out), "<out>"))
    return {
        "structure": {
            "status": status, "met": report["met"], "metric": report["metric"], "parameters": result["parameters"],
            "steps": [step["name"] for step in report["steps"]], "kept_layers": report["kept_layers"], "blueprint": report["blueprint"],
            "student": rounded(report["student"]),
            "gates": [[gate["name"], gate["asked"], gate["decides"]] for gate in report["gates"]],
            "weights": digest([_form(each, weights[each]) for each in sorted(weights)]),
            "files": {f"{part}/{file}": shape for part, (shapes, _) in parts.items() for file, shape in shapes.items()},
        },
        "figures": {
            "form": result["form"], "said": digest(masked), "weights": hash_of_arrays(weights),
            "result": rounded({each: result[each] for each in TOLD if each in result}),
            "gates": rounded([[gate["passed"], gate["value"], gate["limit"]] for gate in report["gates"]]),
            "steps": rounded([[step["quality"], digest(step["note"])[:8]] for step in report["steps"]]),
            "files": {f"{part}/{file}": each for part, (_, hashes) in parts.items() for file, each in hashes.items()},
            "report": {each: digest(rounded(report[each]))[:8] for each in SECTIONS},
        },
        "norms": [[float(f"{np.linalg.norm(weights[each].astype(np.float64)):.6g}"), int(weights[each].size)] for each in sorted(weights)],
    }  # fmt: skip


# -- the process ---------------------------------------------------------------------------------------------------


def key() -> dict[str, Any]:
    """The kind of this machine: where it is the same, so is every bit."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    vendor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), platform.processor())
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "machine": platform.machine(), "vendor": vendor, "flags": [flag for flag in FLAGS if flag in flags], "python": python,
        "zlib": zlib.ZLIB_RUNTIME_VERSION, "versions": versions,
    }  # fmt: skip


def forked(name: str, folder: Path) -> str:
    """A line of JSON: what a fork of this process makes of a run."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            found = result_of(name, folder)
        except BaseException as error:
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answer.write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return answer.read_text(encoding="utf-8") if answer.is_file() else json.dumps({"error": f"it died with status {status}"})


THEIRS = (
    "accelerate", "datasets", "jinja2", "onnxruntime.quantization", "openvino", "pyarrow.parquet", "pydantic.main", "pydantic.type_adapter",
    "rich._emoji_codes", "sklearn.ensemble", "sklearn.linear_model", "torch._dynamo", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.bert.modeling_bert", "transformers.tokenization_utils_fast",
    "typer._adapters", "yaml",
)  # fmt: skip
"""What the runs import of other libraries; one that is not there costs time, no more."""


def preload() -> None:
    """Import what the runs import, Penjing's modules of whatever name included: a fork then has it at no cost."""
    import penjing

    ours = [each.name for each in pkgutil.walk_packages(penjing.__path__, "penjing.") if not each.name.endswith(".__main__")]
    for name in (*THEIRS, *ours):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    for template in ("page.html.j2", "model_card.md.j2"):
        importlib.import_module("penjing.report.page").templates().get_template(template)
    gc.collect()
    gc.freeze()  # a fork need not look through all that


def lines() -> Iterator[str]:
    """What is asked."""
    for line in sys.stdin:
        yield line.strip()


def main() -> None:
    """Answer until nothing more is asked."""
    missing = {name: value for name, value in FIXED.items() if os.environ.get(name) != value}
    assert not missing, missing
    folder, answers = Path(sys.argv[1]), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else is written among the answers
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tell_the_clock()
    preload()
    for name in lines():
        answers.write((forked(name, folder) if name else json.dumps(key())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

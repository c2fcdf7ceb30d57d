"""Damaged files, for every reader: what is read is whole, or refused in one line; in bounded memory, and without a crash.

    python tests/fuzzing.py --minutes 4 --seed 0 [--reader NAME]

prints, for each reader, how many files were tried and what came of them. Each reader runs in a process of its own that may take
`ROOM` more memory than it had after reading whole files, and `LONGEST` seconds a file. What raises another exception than Penjing's
own, says more than one line, or ends the process is a failure: the damaged files are kept in `.cache/fuzz`, and the exit status is 1.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from commands import rows_of, write_rows
from conftest import tiny_teacher
from damage import damaged
from safetensors import SafetensorError
from safetensors.numpy import load, save
from samples import FORMS, describe, engine, packed, student, student_folder

import penjing
from penjing.engines.clock.worker import peak_mb
from penjing.engines.description import DESCRIPTION
from penjing.engines.form import EAGER, TOKENIZER
from penjing.engines.numpy import FILE, KINDS
from penjing.engines.numpy import _metadata as student_metadata
from penjing.engines.onnx.packed import NETWORK, WEIGHTS, _digest, graph_bytes
from penjing.engines.opening import open_engine
from penjing.errors import PenjingError
from penjing.files.run import Run
from penjing.job.reading import read_recipe
from penjing.maths.stored import Scheme, quantize
from penjing.model import checkpoint, writing
from penjing.model.packing import CODECS, PACKED, _checksum, _metadata, load_coded
from penjing.tasks.sources import tokenizer_of
from penjing.text.data import read_rows

ROOM, LONGEST = 1 << 30, 60
KEPT = Path(__file__).parents[1] / ".cache" / "fuzz"


# -- what reads it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """make: writes whole files into a folder; read: reads them. files: those that are damaged, one at a time.

    fit: makes the checksums of damaged files right again, so that damage reaches what reads behind them. native: what reads may end
    the process, so not in a test's own.
    """

    make: Callable[[Path], object]
    files: Sequence[str]
    read: Callable[[Path], object]
    fit: Callable[[Path], object] = lambda folder: None
    native: bool = False


def served(folder: Path, name: str | None = None) -> object:
    """A folder that answers a text."""
    return penjing.load(folder, engine=name, threads=1)(["a good film", ""])


def without_checksums(folder: Path, name: str) -> object:
    form = FORMS[name]
    return describe(engine(folder, [form]), [form], crc32={})


def fit_network(folder: Path) -> None:
    """Checksums and digest of packed weights as they would have been written."""
    fit_packed(folder / WEIGHTS)
    try:
        fields = json.loads((folder / NETWORK).read_bytes())
        fields.pop("digest")
        fields["digest"] = _digest(fields, folder / WEIGHTS)
        (folder / NETWORK).write_text(json.dumps(fields))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return


def fit_packed(path: Path) -> None:
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        tensors, header = load(content), json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["penjing"])
        header.pop("crc32")
        for name, entry in header["tensors"].items():
            entry["crc32"] = _checksum({part: tensors[f"{name}:{part}"] for part in CODECS[entry["codec"]].parts})
        path.write_bytes(save(tensors, _metadata(header)))
    except Exception:  # what is damaged further has no checksum to be made right
        return


def fit_student(folder: Path) -> None:
    try:
        content = (folder / FILE).read_bytes()
        size = int.from_bytes(content[:8], "little")
        arrays, header = load(content), json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["student"])
        learned = replace(student("static"), kind=header["kind"], arrays=arrays, settings=header["settings"])
        (folder / FILE).write_bytes(save(arrays, student_metadata(learned)))
    except Exception:
        return


def built(folder: Path) -> object:
    """Every graph of a packed folder."""
    return [graph_bytes(folder, packed(form)) for form in FORMS.values()]


def packed_model(folder: Path) -> None:
    tiny_teacher(folder)
    model = checkpoint.read(folder)
    matrices = [(name, value) for name, value in model.state_dict().items() if value.ndim == 2]
    schemes = [Scheme("linear", 4, group=8), Scheme("kmeans", 3), Scheme("log", 3, group=16), Scheme("ternary", 2)]
    coded = {name: quantize(value, schemes[i % 4]) for i, (name, value) in enumerate(matrices)}
    writing.write(model, folder, tokenizer=None, packed=True, coded=coded)


def sharded(folder: Path) -> None:
    """A model in two files and an index."""
    import transformers

    tiny_teacher(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


def read_packed_model(folder: Path) -> None:
    with suppress(ValueError, SafetensorError):
        load_coded(folder / PACKED)
    checkpoint.read(folder)


def table(folder: Path, name: str) -> None:
    """Rows as a file of this name."""
    import gzip

    import pandas as pd

    path, rows = folder / name, rows_of("classification", 12, 0)
    frame = pd.DataFrame(rows)
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith((".csv", ".tsv")):
        frame.to_csv(path, index=False, sep="," if name.endswith("v") and "csv" in name else "\t")
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        write_rows(folder / "rows.jsonl", rows)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes()))


RECIPE = """
prune: {macs: 0.5, importance: obs, texts: 100, repair: weights, per_layer: false}
texts: false
distill:
  schedule: {epochs: 2, learning_rate: 3.0e-5, batch_size: 32}
  losses: {kl: 1.0}
  temperature: 2.0
store: false
quantize: {scheme: static, texts: 64, calibration: mse, smooth: 0.5}
"""


def run_folder(folder: Path) -> None:
    run = Run(folder / "out", {"command": "compress", "seed": 0, "data": {"train": "x", "rows": 3}})
    run.step("baseline", lambda place: {"quality": 90.0, "note": "so"})


def resumed(folder: Path) -> None:
    run = Run(folder / "out", {"command": "compress", "seed": 0, "data": {"train": "x", "rows": 3}})
    run.step("baseline", lambda place: {"quality": 90.0, "note": "so"})


ORT, OPENVINO = "onnxruntime float32", "openvino float32"
INT8 = "onnxruntime int8"
TABLES = ("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz")
READERS: dict[str, Reader] = {
    "engine.json": Reader(lambda folder: engine(folder, [FORMS[ORT], FORMS[OPENVINO]]), [DESCRIPTION], served),
    "tokenizer.json": Reader(partial(without_checksums, name=ORT), [TOKENIZER], served),
    "graph": Reader(lambda folder: engine(folder, [FORMS[ORT], FORMS[OPENVINO]]), [FORMS[ORT].file], served),
    "graph without checksum, onnxruntime": Reader(partial(without_checksums, name=INT8), [FORMS[INT8].file], served, native=True),
    "graph without checksum, openvino": Reader(
        partial(without_checksums, name="openvino int8"), [FORMS["openvino int8"].file], served, native=True
    ),
    "packed engine": Reader(lambda folder: engine(folder, [packed(FORMS[INT8])]), [WEIGHTS, NETWORK], served),
    "packed engine, made to fit": Reader(lambda folder: engine(folder, [packed(FORMS[INT8])]), [WEIGHTS, NETWORK], built, fit_network),
    "packed model": Reader(packed_model, [PACKED], read_packed_model),
    "packed model, made to fit": Reader(packed_model, [PACKED], read_packed_model, lambda folder: fit_packed(folder / PACKED)),
    **{f"student, {kind}": Reader(partial(student_folder, kind=kind), [FILE], served) for kind in KINDS},
    **{f"student, {kind}, made to fit": Reader(partial(student_folder, kind=kind), [FILE], served, fit_student) for kind in KINDS},
    "model": Reader(tiny_teacher, ["config.json", "model.safetensors"], checkpoint.read),
    "model in shards": Reader(sharded, ["model.safetensors.index.json"], checkpoint.read),
    "model in PyTorch": Reader(tiny_teacher, ["config.json", "model.safetensors"], lambda folder: open_engine(EAGER, folder, 1)),
    "tokenizer of a model": Reader(tiny_teacher, ["tokenizer.json", "tokenizer_config.json"], tokenizer_of),
    **{name: Reader(partial(table, name=name), [name], partial(lambda folder, name: read_rows(folder / name), name=name), native="parquet" in name)
       for name in TABLES},
    "recipe": Reader(lambda folder: (folder / "recipe.yaml").write_text(RECIPE), ["recipe.yaml"], lambda folder: read_recipe(folder / "recipe.yaml")),
    "run": Reader(run_folder, ["out/run.json", "out/steps/01-baseline/record.json"], resumed),
}  # fmt: skip


# -- trying --------------------------------------------------------------------------------------------------------


class Trial:
    """A reader with whole files of its own; each input is one number, and damages them its own way."""

    def __init__(self, name: str, place: Path, seed: int) -> None:
        self.reader, self.place, self.seed, self.name = READERS[name], place / "files", seed, name
        self.place.mkdir(parents=True)
        self.reader.make(self.place)
        self.whole = {path.relative_to(self.place): path.read_bytes() for path in self.place.rglob("*") if path.is_file()}

    def read_whole(self) -> None:
        """What is whole is read, also where its checksums were made anew."""
        self.reader.fit(self.place)
        self.reader.read(self.place)

    def spoil(self, number: int) -> None:
        """Write the files of this input."""
        shutil.rmtree(self.place)
        for path, content in self.whole.items():
            (self.place / path).parent.mkdir(parents=True, exist_ok=True)
            (self.place / path).write_bytes(content)
        random = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])
        file = self.reader.files[int(random.integers(len(self.reader.files)))]
        (self.place / file).write_bytes(damaged(self.whole[Path(file)], random))
        self.reader.fit(self.place)

    def outcome(self) -> tuple[str, str]:
        """Whether the files are loaded, refused, or failed; and why they failed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.reader.read(self.place)
            return "loaded", ""
        except PenjingError as error:
            one_line = str(error) and "\n" not in str(error) and len(str(error)) < 2000
            return ("refused", "") if one_line else ("failed", f"no line, or more than one: {str(error)[:3000]}")
        except KeyboardInterrupt:
            raise
        except BaseException:
            return "failed", traceback.format_exc()

    def tried(self, number: int) -> str:
        """What comes of one input; files that fail are kept."""
        self.spoil(number)
        what, why = self.outcome()
        if why:
            self.keep(number, why)
        return what

    def keep(self, number: int, why: str) -> None:
        """Save the damaged files."""
        folder = KEPT / f"{re.sub('[^a-z0-9]+', '-', self.name.lower())}-{self.seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.place, folder)
        (folder / "why.txt").write_text(why, encoding="utf-8", errors="backslashreplace")


def work(name: str, seed: int, numbers: range, until: float, log: Path, sender: Any) -> None:
    """Try inputs in this process, within bounds; send each one's number before, and after it what came and the MB taken."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(name, Path(place), seed)
        trial.read_whole()
        before = peak_mb() or 0.0
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            if time.monotonic() > until:
                break
            sender.send((number, "", 0.0))
            signal.alarm(LONGEST)
            what = trial.tried(number)
            signal.alarm(0)
            sender.send((number, what, (peak_mb() or 0.0) - before))


def in_processes(name: str, seed: int, seconds: float, inputs: int) -> tuple[Counter[str], float]:
    """What came of a reader's inputs, and the MB that they took beyond whole files. What ends the process is counted and gone on from."""
    fork, counts, first, peak, until = multiprocessing.get_context("fork"), Counter[str](), 0, 0.0, time.monotonic() + seconds
    while first < inputs and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as place:
            log = Path(place) / "log"
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=work, args=(name, seed, range(first, inputs), until, log, sender))
            process.start()
            sender.close()
            number = -1
            with suppress(EOFError):
                while True:
                    number, what, mb = receiver.recv()
                    counts.update([what] if what else [])
                    peak = max(peak, mb)
            process.join()
            if not process.exitcode:
                break
            said = log.read_text(errors="replace")[-3000:]
            if number < 0:
                raise RuntimeError(f"{name}: whole files are not read: {said}")
            counts["crashed"] += 1
            trial = Trial(name, Path(place), seed)
            trial.spoil(number)
            trial.keep(number, f"status {process.exitcode}\n{said}")
            first = number + 1
    return counts, peak


def main() -> None:
    """Every reader in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="of all readers together")
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--reader", choices=[*READERS], action="append", help="this one alone; may be given again")
    parser.add_argument("--inputs", type=int, default=10**9, help="of each reader at most")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    names, wrong, total = options.reader or [*READERS], 0, 0
    print(f"seed {seed}", flush=True)
    for name in names:
        counts, peak = in_processes(name, seed, 60 * options.minutes / len(names), options.inputs)
        total += counts.total()
        wrong += counts["failed"] + counts["crashed"]
        said = ", ".join(f"{counts[what]} {what}" for what in ("loaded", "refused", "failed", "crashed") if counts[what])
        print(f"{name}: {counts.total()} tried: {said}; {peak:.0f} MB at most beyond whole files", flush=True)
    print(f"{total} tried, {wrong} went wrong{f': see {KEPT}' if wrong else ''}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

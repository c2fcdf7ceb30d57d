"""What others make of the same model, each in an environment of its own, to be measured in one run with ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.engines.form import BUCKET, Form
from penjing.model.tokenizing import copy_tokenizer
from penjing.text.encoded import Encoded

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NNCF = ROOT / ".cache" / "peers" / "nncf"
TEXTBREWER = ROOT / ".cache" / "peers" / "textbrewer"
NNCF_INT8 = Form("openvino, NNCF int8", "openvino", "nncf-int8.xml")
"""Dynamic lengths, its float operations in float32, as our own `openvino int8`."""
NNCF_FORMS = (
    NNCF_INT8,
    replace(NNCF_INT8, name=f"{NNCF_INT8.name} bf16", bfloat16=True),
    replace(NNCF_INT8, name=f"{NNCF_INT8.name} buckets", bucket=BUCKET, batch=1),
    replace(NNCF_INT8, name=f"{NNCF_INT8.name} buckets bf16", bucket=BUCKET, bfloat16=True, batch=1),
)
"""The same file in all the ways that we run our own; the second is OpenVINO's own default on a CPU that has bfloat16."""
QUIET = {"CI": "true"}
"""OpenVINO's tools report their use over the network, except where this is set."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Models are read from folders, and nothing is reported."""


def environment(folder: Path, requirements: Path) -> Path:
    """The Python of a virtual environment with these requirements, made on first use; what the project pins has the project's version."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pins = ROOT / "constraints.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements, "-c", pins], check=True)
        done.write_text(wanted, encoding="utf-8")  # last: an installation that broke off is made anew
    return python


def nncf_int8(float_onnx: Path, calibration: Encoded, out: Path) -> Form:
    """NNCF's post-training int8 of a float32 portable file, in the folder `out`; the form that runs it.

    `calibration` are texts of the training data, each given alone. What NNCF chose and its seconds are in nncf-int8.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    python = environment(NNCF, HERE / "requirements-nncf.txt")
    texts = out / "nncf-calibration.npz"
    calibration.save(texts)
    subprocess.run([python, HERE / "nncf_int8.py", float_onnx, texts, out / NNCF_INT8.file], check=True, env=os.environ | QUIET)
    texts.unlink()
    return NNCF_INT8


def nncf_chose(out: Path) -> dict[str, object]:
    """What the last `nncf_int8` in this folder wrote of itself: options, quantizers, seconds, version."""
    found: dict[str, object] = json.loads((out / NNCF_INT8.file).with_suffix(".json").read_text(encoding="utf-8"))
    return found


def textbrewer_distil(
    teacher: Path, student: Path, texts: Encoded, labels: NDArray[np.int64], matches: list[tuple[int, int]], out: Path, *,
    temperature: float, epochs: int, learning_rate: float, warmup: float = 0.1, batch_size: int = 32, hard: float = 0.0,
    threads: int = 2, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """TextBrewer's distillation of two Hugging Face folders of sequence classifiers; the trained student, in the folder `out`.

    matches: pairs (state of the teacher, state of the student), 0 the embeddings'. hard: weight of the gold labels (N,).
    Returns what `textbrewer_found` reads: seconds, texts per second (the teacher's passes included), steps, versions, options.
    What TextBrewer says beside that goes to textbrewer.log. Dropout is as the student's configuration has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    python = environment(TEXTBREWER, HERE / "requirements-textbrewer.txt")
    options = {
        "matches": matches, "temperature": temperature, "epochs": epochs, "learning_rate": learning_rate, "warmup": warmup,
        "batch_size": batch_size, "hard": hard, "threads": threads, "seed": seed,
    }  # fmt: skip
    given = out / "textbrewer-texts.npz"
    np.savez(given, ids=texts.ids, types=texts.types, offsets=texts.offsets, labels=labels)
    command = [python, HERE / "textbrewer_distil.py", teacher, student, given, out, json.dumps(options)]
    with open(out / "textbrewer.log", "w", encoding="utf-8") as log:
        subprocess.run(command, check=True, env=os.environ | OFFLINE, stdout=log, stderr=log)
    given.unlink()
    copy_tokenizer(teacher, out)
    return textbrewer_found(out)


def textbrewer_found(out: Path) -> dict[str, Any]:
    """What the last `textbrewer_distil` into this folder wrote of itself."""
    found: dict[str, Any] = json.loads((out / "textbrewer.json").read_text(encoding="utf-8"))
    return found

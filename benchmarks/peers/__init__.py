"""What others make of the same model, each in an environment of its own, to be measured in one run with ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from penjing.arrays import Encoded
from penjing.engines.engine import Form
from penjing.engines.export import BUCKET

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NNCF = ROOT / ".cache" / "peers" / "nncf"
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

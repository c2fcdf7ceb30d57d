"""NNCF's post-training int8 of an ONNX file: `python nncf_int8.py float32.onnx texts.npz nncf-int8.xml`.

Runs in the environment of requirements-nncf.txt, which has neither penjing nor torch. All is as NNCF's documentation
recommends for a Transformer: the model through `openvino.convert_model`, `model_type=TRANSFORMER`, and every other option
at its default. That is the preset MIXED (weights symmetric per channel, activations asymmetric), SmoothQuant, fast bias
correction, and statistics of 300 texts.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

Feeds = dict[str, NDArray[np.int64]]


def texts_of(path: Path) -> list[Feeds]:
    """Inputs of every text alone, (1, S), from what `Encoded.save` wrote."""
    with np.load(path) as saved:
        cuts = saved["offsets"][1:-1]
        ids, types = (np.split(saved[name].astype(np.int64), cuts) for name in ("ids", "types"))
    return [
        {"input_ids": i[None], "token_type_ids": t[None], "attention_mask": np.ones_like(i)[None]} for i, t in zip(ids, types, strict=True)
    ]


def main(source: str, texts: str, target: str) -> None:
    """Quantize and save, the options and the time beside it."""
    model = openvino.convert_model(source)
    inputs = {value.get_any_name() for value in model.inputs}
    dataset = nncf.Dataset([{name: feeds[name] for name in inputs} for feeds in texts_of(Path(texts))])
    start = time.monotonic()
    model = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER)
    seconds = time.monotonic() - start
    openvino.save_model(model, target, compress_to_fp16=False)
    kinds = Counter(op.get_type_name() for op in model.get_ordered_ops())
    options = {name: str(value) for name, value in model.get_rt_info(["nncf", "quantization"]).value.items()}
    found = {
        "nncf": nncf.__version__,
        "openvino": openvino.__version__,
        "options": options,
        "seconds": seconds,
        "activation_quantizers": kinds["FakeQuantize"],
        "smoothed": sum(op.get_friendly_name().endswith("nncf_smooth_quant") for op in model.get_ordered_ops()),
        "operations": dict(kinds.most_common()),
    }
    Path(target).with_suffix(".json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"NNCF {nncf.__version__}: {seconds:.0f} s, {kinds['FakeQuantize']} activation quantizers")


if __name__ == "__main__":
    main(*sys.argv[1:])

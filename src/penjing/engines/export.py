"""Write a model in the forms that engines run."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from penjing.atomic import write_bytes
from penjing.checkpoint import blueprint_of, write
from penjing.engines.engine import PORTABLE, EngineName, Form
from penjing.engines.graph import Network, Ranges, build_graph
from penjing.engines.machine import safe_weight_bits
from penjing.modeling_penjing import PenjingPreTrainedModel

PORTABLE_INT8, PORTABLE_FLOAT = PORTABLE
FUSED_FLOAT, FUSED_INT8 = "fused-float32.onnx", "fused-int8.onnx"
MODEL = "model"
"""The folder of a form that PyTorch runs."""
BUCKET = 8

FLOAT_FORMS = (
    Form("onnxruntime float32", "onnxruntime", PORTABLE_FLOAT),
    Form("onnxruntime fused float32", "onnxruntime", FUSED_FLOAT),
    Form("openvino float32", "openvino", PORTABLE_FLOAT),
)
INT8_FORMS = (
    Form("onnxruntime fused int8", "onnxruntime", FUSED_INT8, batch=1),
    Form("onnxruntime int8", "onnxruntime", PORTABLE_INT8),
    Form("openvino int8", "openvino", PORTABLE_INT8),
    Form("openvino int8 buckets", "openvino", PORTABLE_INT8, bucket=BUCKET, batch=1),
    Form("openvino int8 buckets bf16", "openvino", PORTABLE_INT8, bucket=BUCKET, bfloat16=True, batch=1),
)

TORCH_FORMS = (Form("torch eager", "torch", MODEL),)


def network_of(model: PenjingPreTrainedModel) -> Network:
    """The model's sizes and weights as numpy."""
    weights = {name.removeprefix("encoder."): value.detach().float().numpy() for name, value in model.state_dict().items()}
    config = model.config
    return Network(blueprint_of(model), weights, config.hidden_act, config.head_act, config.layer_norm_eps)


def forms_for(engine: EngineName | None, *, int8: bool = True) -> list[Form]:
    """The forms worth measuring, of one engine or of every one."""
    if engine == "torch":
        return list(TORCH_FORMS)
    return [form for form in (INT8_FORMS if int8 else FLOAT_FORMS) if engine in (None, form.engine)]


def export(model: PenjingPreTrainedModel, folder: Path, files: Sequence[str], ranges: Ranges | None = None, *, segments: bool) -> None:
    """Write the named ONNX files of `model` into `folder`, or its folder for PyTorch; `segments` where texts come in pairs."""
    network = network_of(model)
    for name in dict.fromkeys(files):
        if name == MODEL:
            write(model, folder / MODEL)
            continue
        graph = build_graph(
            network,
            "fused" if name in (FUSED_FLOAT, FUSED_INT8) else "portable",
            int8=name in (PORTABLE_INT8, FUSED_INT8),
            ranges=ranges,
            segments=segments or name not in (FUSED_FLOAT, FUSED_INT8),
            weight_bits=safe_weight_bits(),
        )
        onnx.checker.check_model(graph)
        write_bytes(folder / name, graph.SerializeToString())

"""Write a model in the forms that engines run."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import onnx

from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.engine import FUSED, PORTABLE, EngineName, Form
from penjing.engines.onnx.graph import Network, Ranges
from penjing.engines.onnx.packed import Deployed, graph_of
from penjing.errors import InputError
from penjing.files.whole import write_bytes
from penjing.model.checkpoint import blueprint_of, write
from penjing.model.modeling_penjing import PenjingPreTrainedModel

PORTABLE_INT8, PORTABLE_FLOAT = PORTABLE
FUSED_INT8, FUSED_FLOAT = FUSED
MODEL = "model"
"""The folder of a form that PyTorch runs."""
BUCKET = 8
Rounding = Literal["dynamic", "static", "float"]
ROUNDINGS: dict[str, Rounding] = {PORTABLE_INT8: "static", FUSED_INT8: "dynamic"}
"""How the int8 files round activations."""

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


def rounding_of(form: Form) -> Rounding:
    """How the form rounds activations: over calibrated ranges, over those of each text, or not at all."""
    return ROUNDINGS.get(form.file, "float")


def forms_for(engine: EngineName | None, *, int8: bool = True, rounding: Rounding | None = None) -> list[Form]:
    """The forms worth measuring, of one engine or of every one; with `rounding`, those alone that round so."""
    if engine == "torch":
        return list(TORCH_FORMS)
    forms = [form for form in (INT8_FORMS if int8 else FLOAT_FORMS) if engine in (None, form.engine)]
    found = [form for form in forms if rounding in (None, rounding_of(form))]
    if not found:
        raise InputError(
            f"export: {engine or 'no engine'} has no {rounding} form; dynamic int8 takes onnxruntime, static int8 either engine"
        )
    return found


def export(
    model: PenjingPreTrainedModel,
    folder: Path,
    files: Sequence[str],
    ranges: Ranges | None = None,
    *,
    segments: bool,
    float_layers: Collection[str] = (),
) -> None:
    """Write the named ONNX files of `model` into `folder`, or its folder for PyTorch.

    Args:
        ranges: of the activations, for static int8.
        segments: whether texts come in pairs.
        float_layers: linear layers that int8 leaves in float; see `build_graph`.
    """
    deployed = Deployed(network_of(model), ranges, segments, tuple(float_layers))
    for name in dict.fromkeys(files):
        if name == MODEL:
            write(model, folder / MODEL)
            continue
        graph = graph_of(deployed, name, safe_weight_bits())
        onnx.checker.check_model(graph)
        write_bytes(folder / name, graph.SerializeToString())

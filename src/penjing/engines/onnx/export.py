"""Write a model of PyTorch in the forms that engines run."""

from collections.abc import Collection, Sequence
from pathlib import Path

from penjing.engines.form import ENGINES, MODEL, Form
from penjing.engines.network import Deployed, Network, Ranges
from penjing.engines.onnx.files import write_graph
from penjing.engines.opening import engine_class
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.writing import write


def network_of(model: PenjingPreTrainedModel) -> Network:
    """The model's sizes and weights as numpy."""
    weights = {name.removeprefix("encoder."): value.detach().float().numpy() for name, value in model.state_dict().items()}
    config = model.config
    return Network(blueprint_of(model), weights, config.hidden_act, config.head_act, config.layer_norm_eps)


def export(
    model: PenjingPreTrainedModel,
    folder: Path,
    files: Sequence[str | Form],
    ranges: Ranges | None = None,
    *,
    segments: bool,
    float_layers: Collection[str] = (),
) -> None:
    """Write files of `model` into `folder`: each ONNX file, or the folder for PyTorch, that is named or that a form names.

    Args:
        files: a form of an engine that is not in `ENGINES` is written by that engine itself.
        ranges: of the activations, for static int8.
        segments: whether texts come in pairs.
        float_layers: linear layers that int8 leaves in float; see `build_graph`.
    """
    deployed = Deployed(network_of(model), ranges, segments, tuple(float_layers))
    written = set[str]()
    for each in files:
        name = each if isinstance(each, str) else each.file
        if name in written:
            continue
        written.add(name)
        if isinstance(each, Form) and each.engine not in ENGINES:
            engine_class(each.engine).export(deployed, folder, each)
        elif name == MODEL:
            write(model, folder / MODEL)
        else:
            write_graph(deployed, folder, name)

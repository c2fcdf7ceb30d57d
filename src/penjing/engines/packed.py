"""The smallest deployment: packed weights, and the graph built from them when an engine opens the folder.

Such a folder holds `weights.safetensors` (packing.py) and `network.json`, all else that a graph is made from:

    {"version": 1, "blueprint": {…}, "activation": "gelu", "head_activation": "tanh", "epsilon": 1e-12,
     "segments": false, "ranges": {"layers.0.attention.query": [-3.1, 4.2], …}, "float_layers": [], "digest": "…"}

The digest is the SHA-256 of these fields, the digest left out, and of the weights' file: what is damaged, truncated or
put together from two exports is refused, whatever byte it is. A form with `packed` names the ONNX file that is built
rather than read. Reading imports numpy, safetensors and onnx, and no torch.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from safetensors import SafetensorError

from penjing.atomic import write_text
from penjing.blueprint import Blueprint
from penjing.coded import Coded
from penjing.engines.engine import DEPLOYED, FUSED, PORTABLE, Form
from penjing.engines.graph import Network, Ranges, build_graph
from penjing.engines.machine import safe_weight_bits
from penjing.errors import InputError
from penjing.packing import load_packed, save_packed

VERSION = 1
WEIGHTS, NETWORK = DEPLOYED
INT8 = (PORTABLE[0], FUSED[0])
LARGEST = 2**31 - 1
"""Bytes of an ONNX model in one piece; protobuf takes no more."""


@dataclass(frozen=True)
class Deployed:
    """A network and how it was calibrated: everything that its ONNX files are made from.

    `ranges`: None where it is run in float alone. `segments`: whether texts come in pairs. `float_layers`: what
    int8 leaves in float (`build_graph`).
    """

    network: Network
    ranges: Ranges | None
    segments: bool
    float_layers: tuple[str, ...] = ()


def graph_of(deployed: Deployed, file: str, weight_bits: int) -> onnx.ModelProto:
    """The graph that the ONNX file of this name holds; an `InputError` where there is no such file."""
    if file not in (*PORTABLE, *FUSED):
        raise InputError(f"engine: no graph is called {file!r}; {', '.join((*PORTABLE, *FUSED))} are")
    return build_graph(
        deployed.network,
        "fused" if file in FUSED else "portable",
        int8=file in INT8,
        ranges=deployed.ranges,
        segments=deployed.segments or file in PORTABLE,
        weight_bits=weight_bits,
        float_layers=deployed.float_layers,
    )


def write_network(
    network: Network,
    coded: Mapping[str, Coded],
    folder: Path,
    *,
    ranges: Ranges | None,
    segments: bool,
    float_layers: Collection[str] = (),
) -> None:
    """Write `network` into `folder` for packed forms.

    Args:
        coded: what is stored in few bits, by its name in `network.weights`; the other weights are stored as they are.
        ranges: of the decoded weights' activations; None where it is run in float alone.
        segments: whether texts come in pairs.
        float_layers: linear layers that int8 leaves in float.
    """
    assert coded.keys() <= network.weights.keys(), "a coded tensor is none of the network's"
    folder.mkdir(parents=True, exist_ok=True)
    save_packed({name: coded.get(name, value) for name, value in network.weights.items()}, folder / WEIGHTS)
    fields = {
        "version": VERSION,
        "blueprint": network.blueprint.to_dict(),
        "activation": network.activation,
        "head_activation": network.head_activation,
        "epsilon": network.epsilon,
        "segments": segments,
        "ranges": ranges,
        "float_layers": sorted(float_layers),
    }
    fields["digest"] = _digest(fields, folder / WEIGHTS)
    write_text(folder / NETWORK, _compact(fields))


def read_network(folder: Path) -> Deployed:
    """Read what `write_network` wrote, the weights decoded to float32.

    What is damaged, or of a newer version, is an `InputError`.
    """
    try:
        fields = json.loads((folder / NETWORK).read_bytes())
        version, digest = fields.pop("version"), fields.pop("digest")
        if version != VERSION:
            raise InputError(f"engine: {folder / NETWORK} has version {version!r}, and this code reads {VERSION}; take a newer Penjing")
        if digest != _digest({"version": version, **fields}, folder / WEIGHTS):
            raise ValueError("its digest does not match")
        blueprint, segments = Blueprint.from_dict(fields.pop("blueprint")), fields.pop("segments")
        ranges, float_layers = fields.pop("ranges"), tuple(fields.pop("float_layers"))
        network = Network(blueprint, load_packed(folder / WEIGHTS), **fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"engine: {folder} holds no whole packed network ({reason}); export the model again") from error
    return Deployed(network, ranges and {name: (low, high) for name, (low, high) in ranges.items()}, segments, float_layers)


def graph_bytes(folder: Path, form: Form) -> bytes:
    """The ONNX model of a packed form, serialized.

    Weights are rounded to int8 here, with the bits that are safe on the machine that runs it (`safe_weight_bits`): one
    folder is right on processors with VNNI and without, where an ONNX file suits the processor it was exported on.
    """
    deployed = read_network(folder)
    size = replace(deployed.network.blueprint, bits=8 if form.file in INT8 else 32).bytes
    if size > LARGEST:
        raise InputError(f"engine: {form.file} of {folder} takes {size / 1e9:.1f} GB, and ONNX at most 2.1 in one piece; run it in int8")
    graph = graph_of(deployed, form.file, safe_weight_bits())
    del deployed  # its weights are as large as the graph
    return graph.SerializeToString()


def _digest(fields: dict[str, Any], weights: Path) -> str:
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(_compact(fields).encode())
    return digest.hexdigest()


def _compact(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)

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
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from penjing.blueprint import Blueprint
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.form import DEPLOYED, INT8_FILES, Form
from penjing.engines.network import Deployed, Network, Ranges
from penjing.engines.onnx.files import graph_of
from penjing.engines.onnx.graph import weight_shapes
from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import Json, write_text
from penjing.model.coded import Coded
from penjing.model.packing import load_packed, save_packed

VERSION = 1
LARGEST_FLOAT = 3e38
WEIGHTS, NETWORK = DEPLOYED
LARGEST = 2**31 - 1
"""Bytes of an ONNX model in one piece; protobuf takes no more."""


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

    What is damaged, of a newer version, or no network whoever wrote it, is an `InputError`.
    """
    try:
        fields = json.loads((folder / NETWORK).read_bytes())
        version, digest = fields.pop("version"), fields.pop("digest")
        if version == VERSION and digest != _digest({"version": version, **fields}, folder / WEIGHTS):
            raise ValueError("its digest does not match")
        deployed = _deployed(fields, folder / WEIGHTS) if version == VERSION else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError, InputError) as error:
        raise InputError(f"engine: {folder} holds no whole packed network ({reason_of(error)}); export the model again") from error
    if deployed is None:
        raise InputError(f"engine: {folder / NETWORK} has version {shown(version)}, and this code reads {VERSION}; take a newer Penjing")
    return deployed


def _deployed(fields: Json, weights: Path) -> Deployed:
    """The network of these fields and weights; a `ValueError` or `TypeError` where they are of other types or sizes than it takes."""
    blueprint, ranges, float_layers = Blueprint.from_dict(fields.pop("blueprint")), fields.pop("ranges"), fields.pop("float_layers")
    segments = fields.pop("segments")
    network = Network(blueprint, load_packed(weights), **fields)
    texts = [network.activation, network.head_activation, *float_layers, *(ranges or {})]
    numbers = [network.epsilon, *(number for low, high in (ranges or {}).values() for number in (low, high))]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) in (int, float) and abs(n) <= LARGEST_FLOAT for n in numbers):
        raise ValueError("an activation, a layer's name, a range or epsilon is of another type")
    if not 0 <= network.epsilon <= 1:
        raise ValueError(f"epsilon is {shown(network.epsilon)}; it has to be from 0 to 1")
    if type(segments) is not bool:
        raise ValueError(f"segments is {shown(segments)}; it has to be true or false")
    found = {name: (value.shape, value.dtype.name) for name, value in network.weights.items()}
    wanted = {name: (shape, "float32") for name, shape in weight_shapes(blueprint).items()}
    for name in sorted(found.keys() | wanted):
        if found.get(name) != wanted.get(name):
            raise ValueError(f"{name} is {found.get(name, 'not there')}, and its blueprint says {wanted.get(name, 'that there is none')}")
    return Deployed(network, ranges and {name: (low, high) for name, (low, high) in ranges.items()}, segments, tuple(float_layers))


def graph_bytes(folder: Path, form: Form) -> bytes:
    """The ONNX model of a packed form, serialized.

    Weights are rounded to int8 here, with the bits that are safe on the machine that runs it (`safe_weight_bits`): one
    folder is right on processors with VNNI and without, where an ONNX file suits the processor it was exported on.
    """
    deployed = read_network(folder)
    size = replace(deployed.network.blueprint, bits=8 if form.file in INT8_FILES else 32).bytes
    if size > LARGEST:
        raise InputError(f"engine: {form.file} of {folder} takes {size / 1e9:.1f} GB, and ONNX at most 2.1 in one piece; run it in int8")
    graph = graph_of(deployed, form.file, safe_weight_bits())
    del deployed  # its weights are as large as the graph
    return graph.SerializeToString()


def _digest(fields: Json, weights: Path) -> str:
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(_compact(fields).encode())
    return digest.hexdigest()


def _compact(fields: Json) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)

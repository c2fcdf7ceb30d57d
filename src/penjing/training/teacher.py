"""The teacher's outputs, computed once: logits and hidden states of every training text, on disk, memory-mapped.

Half precision for hidden states, single for logits. The folder's name is a hash of the teacher's weights, the texts
and the layers, so that nothing stale is ever read; it is written whole or not at all.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.arrays import Encoded
from penjing.atomic import whole_folder
from penjing.modeling_penjing import PenjingPreTrainedModel
from penjing.training.loop import mixed_precision


@dataclass(frozen=True)
class TeacherOutputs:
    """`logits`: (N, C), or (T, C) over all tokens for tagging; `states`: layer → (T, H), layer 0 the embeddings."""

    logits: NDArray[np.float32]
    states: dict[int, NDArray[np.float16]]


def teacher_outputs(
    teacher: PenjingPreTrainedModel,
    encoded: Encoded,
    layers: Sequence[int],
    cache: Path,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> TeacherOutputs:
    """Outputs of `teacher` on `encoded`, from the folder `cache` or computed into it.

    Args:
        layers: hidden states wanted, by number: 0 the embeddings, i the output of layer i - 1.
        tick: called with the texts done and all of them.
    """
    folder = cache / _key(teacher, encoded, layers)
    if not folder.is_dir():
        with whole_folder(folder) as temporary:
            _compute(teacher, encoded, layers, temporary, tick)
    states = {layer: np.load(folder / f"states-{layer}.npy", mmap_mode="r") for layer in layers}
    return TeacherOutputs(np.load(folder / "logits.npy"), states)


def _key(teacher: PenjingPreTrainedModel, encoded: Encoded, layers: Sequence[int]) -> str:
    digest = hashlib.sha256(repr((list(layers), mixed_precision())).encode())
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    for array in (encoded.ids, encoded.types, encoded.offsets):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _compute(
    teacher: PenjingPreTrainedModel, encoded: Encoded, layers: Sequence[int], folder: Path, tick: Callable[[int, int], None]
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: Any = teacher
    network.to(device).eval()
    tokens, width, outputs = int(encoded.offsets[-1]), teacher.config.hidden_size, int(teacher.config.num_labels or 0)
    states = {
        layer: np.lib.format.open_memmap(folder / f"states-{layer}.npy", mode="w+", dtype=np.float16, shape=(tokens, width))
        for layer in layers
    }
    logits: NDArray[np.float32] | None = None
    done = 0
    for rows in encoded.exact_batches(64):
        feeds = {name: torch.from_numpy(value).to(device) for name, value in encoded.feeds(rows).items()}
        feeds.pop("attention_mask")
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"):
            output = network(**feeds, output_hidden_states=bool(layers))
        value = output.logits.float().cpu().numpy()
        per_token = value.ndim == 3
        if logits is None:
            logits = np.zeros((tokens if per_token else len(encoded), outputs), np.float32)
        index = encoded.offsets[rows][:, None] + np.arange(feeds["input_ids"].shape[1])
        logits[index if per_token else rows] = value
        for layer, array in states.items():
            array[index] = output.hidden_states[layer].half().cpu().numpy()
        done += len(rows)
        tick(done, len(encoded))
    for array in states.values():
        array.flush()
    assert logits is not None
    np.save(folder / "logits.npy", logits)
    network.to("cpu")

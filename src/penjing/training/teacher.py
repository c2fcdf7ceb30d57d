"""The teacher's outputs, computed once: logits and parts of the encoder on every training text, on disk, memory-mapped.

Half precision for parts, single for logits (computed in bf16 where the processor multiplies in it: `mixed_precision`). The folder's name is a hash of the teacher's weights and the texts, so that nothing
stale is ever read; each array in it is whole or not there, and only those that are missing are computed.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.model.watch import Part, encoder_of, perturbed, tapped
from penjing.text.encoded import Encoded
from penjing.training.loop import Feeds, mixed_precision

LOGITS_FILE = "logits.npy"
FORMAT = 1
"""Of the cache; a change of what is computed takes another."""
COMPUTED_WITH = ("hidden_act", "head_act", "layer_norm_eps", "head_width", "layers")
"""What of the configuration changes the outputs, beside the weights."""
STALE_S = 24 * 3600
"""Age after which what a killed pass left is removed."""
CACHE_LIMIT = 16 * 2**30
"""Bytes of cached parts at most, and never more than half of what the disk has left; beyond it the teacher runs beside the student."""


@dataclass(frozen=True)
class Noise:
    """Perturbed inputs: the probabilities at `temperature` are the mean of `draws` passes with normal noise on the word embeddings; 0: none."""

    size: float = 0.0
    draws: int = 4
    temperature: float = 1.0


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher says of N texts of T tokens in all.

    logits: (N, C), or (T, C) over all tokens for tagging. parts: (T, W) over all tokens, or (N, H) for first tokens.
    live: the teacher itself, where its parts were too many to keep; `wanted` are then computed batch by batch.
    """

    logits: Float32[np.ndarray, "rows C"]
    parts: Mapping[Part, Float16[np.ndarray, "_ _"]]
    offsets: Int[np.ndarray, " ends"]
    live: PenjingPreTrainedModel | None = None
    wanted: tuple[Part, ...] = ()

    def batch_logits(self, rows: Int[np.ndarray, " B"], per_token: bool) -> Float[Tensor, "n C"]:
        """Logits of some texts, (B, C), or of all their tokens (n, C)."""
        return torch.from_numpy(self.logits[self.tokens(rows) if per_token else rows])

    def batch_parts(self, rows: Int[np.ndarray, " B"], feeds: Feeds) -> dict[Part, Float[Tensor, "..."]]:
        """Parts of some texts, padded as `feeds` are: (B, S, W), or (B, H)."""
        mask = feeds["attention_mask"].bool()
        if self.live is not None:
            live: nn.Module = self.live
            with torch.no_grad(), tapped(live.to(mask.device), self.wanted) as caught:
                live(**feeds)
            return {part: value.float() for part, value in caught.items()}
        index = self.tokens(rows) if self.parts else rows
        result: dict[Part, Tensor] = {}
        for part, array in self.parts.items():
            if part.of_text:
                result[part] = torch.from_numpy(array[rows]).to(mask.device).float()
            else:
                padded = torch.zeros(*mask.shape, array.shape[1], device=mask.device)  # (B, S, W)
                padded[mask] = torch.from_numpy(array[index]).to(mask.device).float()
                result[part] = padded
        return result

    def release(self) -> None:
        """Move a teacher that ran beside its student back to the processor, where whoever else holds it takes it to be."""
        if self.live is not None:
            live: nn.Module = self.live
            live.to("cpu")

    def tokens(self, rows: Int[np.ndarray, " B"]) -> Int[np.ndarray, " n"]:
        """Numbers of all tokens of some texts, one text after the other."""
        return np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in rows])


def teacher_outputs(
    teacher: PenjingPreTrainedModel,
    encoded: Encoded,
    parts: Collection[Part],
    cache: Path,
    noise: Noise | None = None,
) -> TeacherOutputs:
    """Outputs of `teacher` on `encoded`, from the folder `cache` or computed into it.

    Args:
        parts: of the encoder, wanted beside the logits.
        noise: on the inputs that the logits answer.
    """
    noise = noise or Noise()
    folder = cache / _key(teacher, encoded, noise)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = int(encoded.offsets[-1])
    encoder = encoder_of(teacher)
    size = sum(2 * part.width(encoder) * (len(encoded) if part.of_text else tokens) for part in parts)
    missing = [part for part in parts if not (folder / f"{part}.npy").is_file()]
    live = bool(missing) and _beside(folder, parts, size)
    kept = [] if live else sorted(parts, key=str)
    missing = [part for part in kept if not (folder / f"{part}.npy").is_file()]
    wanted = LOGITS_FILE if not (folder / LOGITS_FILE).is_file() else None
    if missing or wanted:
        for left in folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
            _compute(teacher, encoded, missing, Path(temporary), noise if wanted else None)
            for name in [*([wanted] if wanted else []), *(f"{part}.npy" for part in missing)]:
                (Path(temporary) / name).replace(folder / name)
    cached = {part: np.load(folder / f"{part}.npy", mmap_mode="r") for part in kept}
    return TeacherOutputs(
        np.load(folder / LOGITS_FILE),
        cached,
        encoded.offsets,
        teacher.eval() if live else None,
        tuple(sorted(parts, key=str)) if live else (),
    )


def _beside(folder: Path, parts: Collection[Part], size: int) -> bool:
    """Whether parts of so many bytes are too many to keep; what was decided once stays so, for a run that goes on."""
    decided = folder / f"beside-{hashlib.sha256(repr(sorted(map(str, parts))).encode()).hexdigest()[:8]}"
    left = sum(file.stat().st_size for file in folder.glob(".*.tmp/*"))  # of a pass that was killed
    if size > min(CACHE_LIMIT, (shutil.disk_usage(folder).free + left) // 2):
        decided.touch()
    return decided.is_file()


def _key(teacher: PenjingPreTrainedModel, encoded: Encoded, noise: Noise) -> str:
    config = sorted((name, value) for name, value in teacher.config.to_dict().items() if name in COMPUTED_WITH)
    digest = hashlib.sha256(repr((FORMAT, mixed_precision(), noise if noise.size else None, config)).encode())
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for array in (encoded.ids, encoded.types, encoded.offsets):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _compute(teacher: PenjingPreTrainedModel, encoded: Encoded, parts: Sequence[Part], folder: Path, noise: Noise | None) -> None:
    """Write the parts into `folder`, and the logits of inputs with `noise`; None: no logits."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: nn.Module = teacher
    network.to(device).eval()
    tokens = int(encoded.offsets[-1])
    encoder = encoder_of(teacher)
    arrays = {
        part: np.lib.format.open_memmap(
            folder / f"{part}.npy", mode="w+", dtype=np.float16,
            shape=(len(encoded) if part.of_text else tokens, part.width(encoder)),
        )
        for part in parts
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    logits: NDArray[np.float32] | None = None
    for rows, feeds in batches(network, encoded, 64):
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"), tapped(network, parts) as caught:
            value = network(**feeds).logits.float()
        if noise is not None and noise.size:  # the parts are those of the texts as they are
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16"):
                value = _mean_answer(network, feeds, noise, generator)
        per_token = value.ndim == 3
        if logits is None:
            logits = np.zeros((tokens if per_token else len(encoded), value.shape[-1]), np.float32)
        index = encoded.offsets[rows][:, None] + np.arange(feeds["input_ids"].shape[1])
        logits[index if per_token else rows] = value.cpu().numpy()
        for part, array in arrays.items():
            array[rows if part.of_text else index] = caught[part].half().cpu().numpy()
    for array in arrays.values():
        array.flush()
    assert logits is not None
    if noise is not None:
        np.save(folder / LOGITS_FILE, logits)
    network.to("cpu")


def _mean_answer(network: nn.Module, feeds: dict[str, Tensor], noise: Noise, generator: torch.Generator) -> Tensor:
    """Logits whose probabilities at the temperature are the mean over draws of noise."""
    with perturbed(network, noise.size, generator):
        draws = [torch.log_softmax(network(**feeds).logits.float() / noise.temperature, dim=-1) for _ in range(noise.draws)]
    return noise.temperature * (torch.logsumexp(torch.stack(draws), dim=0) - float(np.log(noise.draws)))


def ensemble(
    logits: Sequence[Float32[np.ndarray, "N C"]], targets: Int[np.ndarray, " N"] | None = None, temperature: float = 1.0
) -> Float32[np.ndarray, "N C"]:
    """Logits whose softened probabilities are the mean of several teachers', each (N, C): T·log Σ w·softmax(z/T).

    Args:
        targets: labels (N,), -100 where there is none: a text's teachers then count by how near each is to its label, weights
            (1 - e^CE_k / Σ e^CE) / (K - 1) (Zhang et al. 2022, equation 3: confidence-aware); None: all count alike.
    """
    z = torch.from_numpy(np.stack(logits))
    count = len(z)
    weights = np.full((count, z.shape[1], 1), 1 / count)
    if targets is not None and count > 1:
        known = targets >= 0
        loss = np.exp(np.minimum(-z.log_softmax(-1).numpy()[:, np.flatnonzero(known), targets[known]], 30.0))
        weights[:, known, 0] = (1 - loss / loss.sum(0)) / (count - 1)
    mean = (weights * (z / temperature).softmax(-1).numpy()).sum(0)
    return (temperature * np.log(np.maximum(mean, 1e-30))).astype(np.float32)

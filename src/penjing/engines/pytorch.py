"""Eager PyTorch, as Hugging Face runs it: the baseline that every speed-up is a ratio to."""

from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.arrays import Feeds
from penjing.checkpoint import MODEL_CLASSES, head_of, is_own
from penjing.engines.engine import Engine


@final
class TorchEngine(Engine):
    """A model folder loaded by transformers itself (by our own class where Penjing wrote it; no code of the folder is run).

    In float32, or with `bfloat16` all of it in bfloat16; logits are float32."""

    def __init__(self, path: Path, threads: int, bfloat16: bool = False) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        head = head_of(path)
        plain = {"sequence": transformers.AutoModelForSequenceClassification, "token": transformers.AutoModelForTokenClassification}
        kind = MODEL_CLASSES[head] if is_own(path) else plain[head]
        self.model = kind.from_pretrained(path, dtype=torch.bfloat16 if bfloat16 else torch.float32).eval()
        segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        self.inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]

    @torch.inference_mode()
    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.model(**{n: torch.from_numpy(feeds[n]) for n in self.inputs}).logits.float().numpy()
        return logits

"""Hugging Face's models as folders, and the inputs that fit them."""

from pathlib import Path
from typing import Any

import torch
from conftest import POSITIONS, VOCABULARY, batch


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def inputs_for(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """A padded batch with every length from one token to all positions, and token types where the family has two."""
    config = model.config
    types = config.type_vocab_size if config.model_type in ("bert", "electra") else 1
    return batch([POSITIONS, 1, 9, 16], vocabulary=VOCABULARY, pad=config.pad_token_id, token_types=types, seed=seed)

"""Eager PyTorch, as Hugging Face runs it: the baseline that every speed-up is a ratio to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.engines.engine import Engine
from penjing.engines.form import Form, forms_of_engine
from penjing.errors import InputError, reason_of
from penjing.model.building import model_class_of
from penjing.model.checkpoint import open_checkpoint
from penjing.text.encoded import Feeds


@final
class TorchEngine(Engine):
    """A model folder loaded by transformers itself (by our own class where Penjing wrote it; no code of the folder is run).

    In float32, or with the form's `bfloat16` all of it in bfloat16; logits are float32. An `InputError` where a weight would be drawn at random or
    left out, or where the configuration asks for what is not followed."""

    name = "torch"
    graphs = False

    def __init__(self, path: Path, form: Form, threads: int) -> None:
        super().__init__(form)
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        known = open_checkpoint(path).matched
        head, family = known.blueprint.head, known.configuration.family
        if family and not head.labelled:
            raise InputError(f"model: {path} has no head that labels texts or words; make one with penjing train")
        kind = getattr(transformers, head.auto_class) if family else model_class_of(head)
        try:
            self.model, found = kind.from_pretrained(
                path, dtype=torch.bfloat16 if form.bfloat16 else torch.float32, output_loading_info=True
            )
        except Exception as error:
            raise InputError(f"model: transformers cannot load {path} ({reason_of(error)}); copy it again") from error
        if found["missing_keys"]:
            raise InputError(
                f"model: transformers misses {min(found['missing_keys'])} in {path}, and would draw it at random; copy it again"
            )
        self.model.eval()
        for module in self.model.modules():  # in chunks it takes some lengths alone, for the same answers
            if hasattr(module, "chunk_size_feed_forward"):
                module.chunk_size_feed_forward = 0
        segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        self.inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        assert isinstance(model, Path), "it runs no graph"
        return cls(model, form, threads)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        return forms_of_engine(cls.name, int8)

    @torch.inference_mode()
    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        output = self.model(**{n: torch.from_numpy(feeds[n]) for n in self.inputs}, return_dict=True)
        logits: NDArray[np.float32] = output.logits.float().numpy()
        return logits

"""Distillation by TextBrewer: `python textbrewer_distil.py teacher student texts.npz out '{"epochs": 1, …}'`.

Runs in the environment of requirements-textbrewer.txt, which has no penjing. As in TextBrewer's notebook examples: a
`GeneralDistiller`, soft logits by cross-entropy, `hidden_mse` of matched states with weight 1, AdamW and transformers'
linear schedule with warm-up, texts shuffled. It runs the teacher on each batch anew, in float32 like the student. The
decay of the weights and the largest norm of the gradients are those of Penjing's own training.

TextBrewer's cross-entropy is not multiplied by temperature², and `hidden_mse` is a mean over tokens and units.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import textbrewer
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

Text = tuple[NDArray[np.int64], NDArray[np.int64], int]
WEIGHT_DECAY, GRADIENT_NORM = 0.01, 1.0


def texts_of(path: Path) -> list[Text]:
    """Token numbers, token types and label of every text."""
    with np.load(path) as saved:
        cuts = saved["offsets"][1:-1]
        ids, types = (np.split(saved[name].astype(np.int64), cuts) for name in ("ids", "types"))
        return list(zip(ids, types, saved["labels"].tolist(), strict=True))


def batch_of(texts: list[Text]) -> dict[str, Tensor]:
    """Inputs padded to the longest with BERT's zeros, (B, S), and labels (B,)."""
    ids, types, labels = zip(*texts, strict=True)
    mask = [np.ones_like(i) for i in ids]
    padded = [pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True) for rows in (ids, types, mask)]
    return {"input_ids": padded[0], "token_type_ids": padded[1], "attention_mask": padded[2], "labels": torch.tensor(labels)}


def adaptor(batch: dict[str, Tensor], output: Any) -> dict[str, Any]:
    """What TextBrewer compares of the teacher and the student."""
    return {
        "logits": output.logits,
        "hidden": output.hidden_states,
        "inputs_mask": batch["attention_mask"],
        "losses": output.loss,
    }


def optimizer_of(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW; biases and norms do not decay."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


def main(teacher: str, student: str, texts: str, out: str, options: str) -> None:
    """Distil and save the student, the options and the time beside it."""
    asked = json.loads(options)
    torch.set_num_threads(asked["threads"])
    transformers.set_seed(asked["seed"])
    data = texts_of(Path(texts))
    models = [transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32) for model in (teacher, student)]
    batches = DataLoader(data, asked["batch_size"], shuffle=True, collate_fn=batch_of)
    steps = asked["epochs"] * len(batches)
    matches = [{"layer_T": i, "layer_S": j, "feature": "hidden", "loss": "hidden_mse", "weight": 1} for i, j in asked["matches"]]
    how = textbrewer.DistillationConfig(
        temperature=asked["temperature"], kd_loss_type="ce", hard_label_weight=asked["hard"], intermediate_matches=matches
    )
    with tempfile.TemporaryDirectory() as folder:  # it writes the weights of the last epoch as a pickle
        training = textbrewer.TrainingConfig(device="cpu", output_dir=folder, ckpt_epoch_frequency=asked["epochs"])
        distiller = textbrewer.GeneralDistiller(training, how, *models, adaptor, adaptor)
        start = time.monotonic()
        with distiller:
            distiller.train(
                optimizer_of(models[1], asked["learning_rate"]),
                batches,
                num_epochs=asked["epochs"],
                scheduler_class=transformers.get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": round(asked["warmup"] * steps), "num_training_steps": steps},
                max_grad_norm=GRADIENT_NORM,
                output_hidden_states=True,
            )
        seconds = time.monotonic() - start
    models[1].eval().save_pretrained(out)
    found = {
        "options": asked,
        "texts": len(data),
        "steps": steps,
        "seconds": seconds,
        "texts_per_s": asked["epochs"] * len(data) / seconds,
        "versions": {"textbrewer": version("textbrewer"), "torch": torch.__version__, "transformers": transformers.__version__},
    }
    (Path(out) / "textbrewer.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

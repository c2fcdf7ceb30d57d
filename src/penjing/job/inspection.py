"""Inspection of a model folder: family, head, labels and tokenizer, and the weights and files that are not read."""

from collections.abc import Sequence
from pathlib import Path

from penjing.engines.description import DESCRIPTION, Description
from penjing.errors import InputError
from penjing.files.whole import Json
from penjing.model.checkpoint import Checkpoint, locate, open_checkpoint
from penjing.model.tokenizing import FILES, tokenizer_at
from penjing.model.weights import INDEX, weight_files
from penjing.serving.predictor import engine_folder
from penjing.tasks.sources import longest_text, tokenizer_of

SHOWN = 12
"""The largest number of labels, weights or files that are listed."""


def inspection(folder: str) -> Json:
    """The inspection of a model folder, or of a folder that `compress` wrote, as a JSON object; `InputError` where it cannot be opened.

    A tokenizer that cannot be read is no error, but noted under `tokenizer.error`: the model is still described.
    """
    path = Path(folder) / "model" if (Path(folder) / "model" / "config.json").is_file() else locate(folder)
    known = open_checkpoint(path)
    matched = known.matched
    blueprint = known.blueprint
    family = known.family.model_type if known.family else known.config.origin.get("model_type")
    exported = engine_folder(Path(folder))
    return {
        "folder": str(path), "format": "penjing" if known.is_own else "transformers", "family": family,
        "head": blueprint.head.name, "outputs": blueprint.outputs, "labels": known.labels, "problem_type": known.problem_type,
        "answers": _answers(known), "blueprint": blueprint.to_dict(), "parameters": blueprint.parameters, "bytes": blueprint.bytes,
        "macs_32": blueprint.macs(32), "macs_128": blueprint.macs(128), "tokenizer": _tokenizer(known),
        "unused": {"weights": list(matched.unused), "files": _unread(path)},
        "engine": _engine(exported) if (exported / DESCRIPTION).is_file() else None,
    }  # fmt: skip


def inspection_lines(found: Json) -> str:
    """The inspection as lines of text, without the blueprint."""
    tokenizer = found["tokenizer"]
    engine = found["engine"]
    if "error" in tokenizer:
        words = [f"none: {tokenizer['error']}"]
    else:
        case = "lower case" if tokenizer["lower_case"] else "case kept"
        words = [
            f"{tokenizer['kind']} ({tokenizer['class']}), {tokenizer['tokens']:,} tokens, {case}; a text has at most"
            f" {tokenizer['longest_text']} and is cut on the {tokenizer['cut']}"
        ]
        if not tokenizer["as_stored"]:
            words.append("tokenizer.json alone says otherwise, or is not there: what all files say is followed, as transformers does")
    pruned = "penjing, from " if found["format"] == "penjing" else ""
    rows = [
        ("family", [f"{pruned}{found['family']}"]),
        ("head", [f"{found['head']}, {found['outputs']} outputs: {found['answers']}"]),
        ("labels", [_some(found["labels"])]),
        ("tokenizer", words),
        ("weights unused", [_some(found["unused"]["weights"])]),
        ("files unread", [_some(found["unused"]["files"])]),
    ]
    if engine:
        rows.append(("engine", [f"{engine['task']}, {engine['metric']}; {_some(engine['forms'])}"]))
    return "\n".join(f"{name if i == 0 else '':<15} {line}" for name, lines in rows for i, line in enumerate(lines))


def _answers(known: Checkpoint) -> str:
    """The kind of the outputs, in words."""
    head = known.blueprint.head
    kind = known.problem_type
    if not head.labelled:
        return {"states": "an encoder, to be trained", "word": "a language model", "span": "a span of the text"}[head.answers]
    if kind == "multi_label_classification":
        return "several labels at once, which no task takes"
    if known.blueprint.outputs < 2 or kind == "regression":
        return "numbers (regression), which no task takes"
    return f"one label of several, of each {'word' if head.per_token else 'text'}"


def _tokenizer(known: Checkpoint) -> Json:
    try:
        made = tokenizer_at(known.folder)
        tokenizer = tokenizer_of(known)
        longest = longest_text(known, 0)
    except InputError as error:
        return {"error": str(error)}
    lower = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("Aa") == "aa"
    cut = tokenizer.truncation["direction"] if tokenizer.truncation else "right"
    return {
        "class": made.kind, "kind": type(tokenizer.model).__name__, "tokens": tokenizer.get_vocab_size(with_added_tokens=True),
        "lower_case": lower, "longest_text": longest, "cut": cut, "as_stored": made.alike,
    }  # fmt: skip


def _unread(path: Path) -> list[str]:
    read = {"config.json", *FILES, *INDEX, *(file.name for file in weight_files(path))}
    return sorted(file.name for file in path.iterdir() if file.is_file() and file.name not in read and not file.name.startswith("."))


def _engine(exported: Path) -> Json:
    about = Description.read(exported)
    return {
        "task": about.task,
        "metric": about.metric or None,
        "max_length": about.max_length,
        "forms": [form.name for form in about.forms],
    }


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown or "none"

"""Every option of every command: each has an example, and is used in a tiny run that ends well.

`demo` is exempt from the runs: it trains for minutes, and its options are options of other commands too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from commands import ended, prepare, rows_of, told
from conftest import SPECIAL, WORDS, tiny, tiny_teacher, write_tiny_tokenizer
from safetensors.torch import load_file

from penjing.cli.derive import TITLES, WIDTH
from penjing.cli.options import COMMANDS, OUTPUT, command_named
from penjing.engines.clock.measure import Sampling, Subject
from penjing.engines.clock.measurement import Measurement
from penjing.engines.clock.trial import Trial
from penjing.job import evaluation
from penjing.text.encoded import Encoded

ANY = "any"
FLAG = ""
"""The example of an option that takes no value."""
EXEMPT = ("demo",)

EXAMPLES: dict[tuple[str, str], str] = {
    # of several commands
    (ANY, "--model"): "{place}/teacher",
    (ANY, "--out"): "{out}",
    (ANY, "--json"): FLAG,
    (ANY, "--task"): "classification",
    (ANY, "--train"): "{place}/train.csv",
    (ANY, "--eval"): "{place}/dev.csv",
    (ANY, "--test"): "{place}/dev.csv",
    (ANY, "--data"): "{place}/dev.csv",
    (ANY, "--text-columns"): "sentence",
    (ANY, "--label-column"): "mark",
    (ANY, "--header"): "sentence,mark",
    (ANY, "--encoding"): "cp1252",
    (ANY, "--delimiter"): ";",
    (ANY, "--label-map"): "schön=positive,übel=negative",
    (ANY, "--metric"): "f1",
    (ANY, "--positive"): "positive",
    (ANY, "--max-length"): "16",
    (ANY, "--max-drop"): "100",
    (ANY, "--confidence"): "0.95",
    (ANY, "--engine"): "onnxruntime",
    (ANY, "--threads"): "1",
    (ANY, "--wait"): "0",
    (ANY, "--seed"): "3",
    (ANY, "--epochs"): "1",
    (ANY, "--learning-rate"): "1e-4",
    (ANY, "--no-training"): FLAG,
    (ANY, "--layers"): "1",
    (ANY, "--heads"): "0.5",
    (ANY, "--neurons"): "0.5",
    (ANY, "--hidden"): "0.5",
    (ANY, "--texts"): "20",
    # train
    ("train", "--model"): "{place}/pickled",
    ("train", "--pickle"): FLAG,
    ("train", "--batch-size"): "16",
    # compress
    ("compress", "--speedup"): "1.1",
    ("compress", "--latency-ms"): "1000",
    ("compress", "--size-mb"): "100",
    ("compress", "--recipe"): "{place}/recipe.yaml",
    ("compress", "--minutes"): "1",
    # prune
    ("prune", "--macs"): "0.5",
    ("prune", "--latency"): "0.8",
    ("prune", "--blocks"): "0.5",
    ("prune", "--vocab"): "0",
    ("prune", "--corpus"): "{place}/plain.txt",
    ("prune", "--sparsity"): "0.5",
    ("prune", "--stored-mb"): "0.06",
    ("prune", "--embeddings"): FLAG,
    ("prune", "--importance"): "magnitude",
    ("prune", "--schedule"): "gradual",
    ("prune", "--scope"): "layer",
    ("prune", "--repair"): "scales",
    ("prune", "--head-weights"): FLAG,
    # quantize
    ("quantize", "--scheme"): "static-int8",
    ("quantize", "--bits"): "4",
    ("quantize", "--group"): "16",
    ("quantize", "--clip"): "percentile",
    ("quantize", "--activation-bits"): "8",
    ("quantize", "--calibration"): "min-max",
    ("quantize", "--divergence"): "100",
    ("quantize", "--smooth"): "0.5",
    # distill
    ("distill", "--preset"): "minilm",
    ("distill", "--keep"): "last",
    ("distill", "--losses"): "kl-entropy=1,hard=1,hidden=1,relations=1,levels=0.5",
    ("distill", "--alpha"): "0.2",
    ("distill", "--temperature"): "2",
    ("distill", "--layer-map"): "last",
    ("distill", "--relation-heads"): "4",
    ("distill", "--levels"): "1",
    ("distill", "--states-first"): "0.5",
    ("distill", "--anneal"): FLAG,
    ("distill", "--noise"): "0.1",
    ("distill", "--draws"): "2",
    ("distill", "--augment"): "masked-lm",
    ("distill", "--masked-lm"): "{place}/masked",
    ("distill", "--copies"): "1",
    ("distill", "--part"): "0.5",
    ("distill", "--sample"): "uncertain",
    ("distill", "--student"): "{place}/other",
    ("distill", "--teacher"): "{place}/other",
    ("distill", "--with"): "tagging,{place}/two/teacher,{place}/two/train.jsonl,{place}/two/dev.jsonl",
    ("distill", "--general"): "{place}/plain.txt",
    ("distill", "--general-texts"): "80",
    ("distill", "--unlabelled"): "{place}/dev.csv",
    ("distill", "--cache"): "{out}-cache",
    # share, factorise, project
    (ANY, "--rank"): "4",
    ("share", "--pattern"): "cycle",
    ("share", "--start"): "least-squares",
    ("project", "--kind"): "sparse",
    # eval, bench
    ("eval", "--teacher"): "{place}/other",
    ("eval", "--engine"): "torch",
    ("bench", "--engine"): "torch",
    ("bench", "--rounds"): "1",
}
"""A valid value of each option, by command and option; `place` and `out` are folders."""

FILE = "--encoding --delimiter --header --text-columns --max-length"
LABELS = "--label-column --label-map --metric --positive"
JOB = f"--model --out --task --train --eval --threads --wait {FILE} {LABELS}"
"""Options of every run of a job, without which it would not read these data, or would wait."""
FULL = f"{JOB} --test --json --max-drop --confidence --engine --seed"

RUNS: dict[str, Sequence[str]] = {
    "train": [f"--model --out --task --train --eval {FILE} {LABELS} --pickle --json --epochs --batch-size --learning-rate --seed"],
    "compress": [
        f"{FULL} --speedup --latency-ms --size-mb --epochs --minutes",
        f"{JOB} --engine --recipe --no-training",
    ],
    "prune": [
        f"{FULL} --layers --heads --neurons --hidden --vocab --corpus --importance --scope --repair --head-weights --texts --no-training",
        f"{JOB} --engine --macs --schedule --epochs",
        f"{JOB} --engine --latency --blocks --no-training --texts",
        f"{JOB} --engine --sparsity --scope=row --embeddings --schedule=iterative --epochs",
        f"{JOB} --engine --stored-mb --no-training",
    ],
    "quantize": [
        f"{FULL} --scheme --calibration --texts --divergence --smooth --no-training",
        f"{JOB} --engine --scheme=linear --bits --group --clip --activation-bits --epochs",
    ],
    "distill": [
        f"{FULL} --preset --layers --keep --heads --neurons --hidden --general --general-texts --cache --epochs --learning-rate",
        f"{JOB} --engine --student --teacher --losses --alpha --temperature --layer-map --relation-heads --levels --states-first --anneal"
        " --noise --draws --unlabelled --augment --masked-lm --copies --part --sample --epochs",
        f"{JOB} --engine --layers --with --epochs",
    ],
    "share": [f"{FULL} --layers --pattern --start --texts --epochs", f"{JOB} --engine --layers --no-training"],
    "factorise": [f"{FULL} --rank --epochs", f"{JOB} --engine --rank --no-training"],
    "project": [f"{FULL} --rank --kind --epochs", f"{JOB} --engine --rank --no-training"],
    "eval": [f"--data --teacher --json --engine --task --threads {FILE} {LABELS}"],
    "bench": [f"--data --rounds --json --engine --task --threads {FILE}"],
    "inspect": ["--json"],
    "methods": ["--json"],
}  # fmt: skip
"""Runs of each command: the options that they are given, with the values of the examples, or with another one after `=`."""


def options_of(command: str) -> Mapping[str, Any]:
    """The options of a command, by their first names."""
    return {parameter.opts[0]: parameter for parameter in command_named(command).params if parameter.param_type_name == "option"}


def example(command: str, option: str) -> str:
    """The example of an option; `KeyError` where there is none."""
    return EXAMPLES[(command, option)] if (command, option) in EXAMPLES else EXAMPLES[(ANY, option)]


def arguments_of(command: str, run: str, **folders: Path) -> list[str]:
    """The arguments of a run: each option, and its value unless it is a flag."""
    arguments = [
        str(folders["place"] / "teacher") for parameter in command_named(command).params if parameter.param_type_name == "argument"
    ]
    for word in run.split():
        option, _, other = word.partition("=")
        value = other or example(command, option).format(**folders)
        arguments += [option, *([value] if value else [])]
    return arguments


def told_side_by_side(subjects: Sequence[Subject], encoded: Encoded, *, sampling: Sampling, **rest: Any) -> list[Measurement]:
    """In place of `measure`, which `bench` calls: the told clock; test_cli.py measures."""
    return told(cast(Trial, None), subjects, encoded, rounds=sampling.rounds)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data of every kind that an example names. The tables have other columns, labels and bytes than the usual ones."""
    place = tmp_path_factory.mktemp("place")
    prepare(place, "classification")
    prepare(place / "two", "tagging")
    tiny_teacher(place / "other", seed=3)
    tiny("bert", "masked", hidden_size=32, vocab_size=len(SPECIAL) + len(WORDS)).save_pretrained(place / "masked")
    write_tiny_tokenizer(place / "masked")
    pickled = tiny_teacher(place / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for name, count in (("train", 60), ("dev", 24)):
        rows = [(row["text"], {"positive": "schön", "negative": "übel"}[row["label"]]) for row in rows_of("classification", count, count)]
        (place / f"{name}.csv").write_text("".join(f"{text};{label}\n" for text, label in rows), encoding="cp1252")
    (place / "plain.txt").write_text("\n".join(f"the {a} was {b} ." for a in WORDS[14:24] for b in WORDS[20:30]))
    (place / "recipe.yaml").write_text("- prune: {neurons: 0.5, texts: 20}\n- distill: {epochs: 1}\n- quantize\n")
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_an_example(command: str) -> None:
    used = {name for name, _ in EXAMPLES}
    missing = [option for option in options_of(command) if not {(command, option), (ANY, option)} & set(EXAMPLES)]
    assert not missing and used <= {ANY, *COMMANDS}


def test_every_example_is_of_an_option() -> None:
    known = {(command, option) for command in COMMANDS for option in options_of(command)}
    known |= {(ANY, option) for _, option in known}
    assert set(EXAMPLES) <= known


@pytest.mark.parametrize("command", COMMANDS)
def test_the_runs_of_a_command_use_all_of_its_options(command: str) -> None:
    if command in EXEMPT:
        others = {option for other in COMMANDS if other != command for option in options_of(other)}
        assert command not in RUNS and set(options_of(command)) <= others
        return
    used = {word.partition("=")[0] for run in RUNS[command] for word in run.split()}
    assert used == set(options_of(command))  # each of these runs ends well, see below


@pytest.mark.parametrize(
    ("command", "run"),
    [pytest.param(command, run, id=f"{command}-{i}") for command, runs in RUNS.items() for i, run in enumerate(runs, 1)],
)
def test_a_run_ends_well(command: str, run: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "measure", told_side_by_side)
    status, out, err = ended(command, *arguments_of(command, run, place=place, out=tmp_path / "out"))
    assert status == 0, err
    assert json.loads(out) if "--json" in run else out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_holds_in_80_columns_and_every_option_stands_in_a_panel(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = ended(command, "--help")
    assert status == 0 and max(map(len, out.splitlines())) <= WIDTH
    for name, option in options_of(command).items():
        assert option.rich_help_panel in {*TITLES.values(), OUTPUT} and f"  {name}" in out

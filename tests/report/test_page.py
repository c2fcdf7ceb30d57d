"""The report: it renders whatever a run holds, loads nothing, escapes texts; its pictures are XML."""

import io
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from penjing.blueprint import Blueprint, Layer
from penjing.report.drawing import (
    Row,
    blueprint_svg,
    count,
    drop_svg,
    inspect_text,
    latency_svg,
    significant,
    size,
    size_svg,
)
from penjing.report.page import model_card, page, verdict

TEACHER = Blueprint(30522, 512, 2, 384, 384, 32, (Layer(12, 1536),) * 6, "sequence", 2)
RESULT = Blueprint(12000, 512, 2, 128, 256, 32, (Layer(9, 820), Layer(4, 700), Layer(0, 512), Layer(7, 0)), "sequence", 2)
FORMS = [
    {"name": "onnxruntime fused-int8", "engine": "onnxruntime", "latency_ms": 0.837, "throughput_per_s": 3900,
     "bytes": 11_800_000, "quality": 88.9, "chosen": True},
    {"name": "onnxruntime fused", "engine": "onnxruntime", "latency_ms": 1.31, "throughput_per_s": 2400,
     "bytes": 31_200_000, "quality": 89.0, "chosen": False},
    {"name": "openvino int8", "engine": "openvino", "latency_ms": 1.02, "throughput_per_s": 3100,
     "bytes": 12_400_000, "quality": 88.4, "chosen": False},
    {"name": "torch", "engine": "torch", "latency_ms": 2.96, "throughput_per_s": 900, "bytes": 31_100_000,
     "quality": None, "chosen": False},
]  # fmt: skip
FULL: dict[str, Any] = {
    "penjing": "0.1.0", "task": "classification", "metric": "accuracy", "met": True,
    "asked": {"model": "teachers/sst2", "train": "sst2/train.jsonl.gz", "eval": "sst2/validation.jsonl.gz",
              "speedup": 7.0, "latency_ms": None, "size_mb": 20, "max_drop": 1.5, "engine": None, "threads": 2},
    "command": "penjing compress --model teachers/sst2 --task classification --train sst2/train.jsonl.gz "
               "--eval sst2/validation.jsonl.gz --out small --speedup 7 --size-mb 20 --max-drop 1.5 --threads 2",
    "date": "2026-11-21T10:00:00Z", "commit": "abc123", "seed": 0,
    "workload": {"lengths_p50": 24, "lengths_p95": 44, "batch": 1, "threads": 2, "texts": 200},
    "machine": {"cpu": "Intel Xeon Platinum 8488C", "cores": 2, "memory_gb": 24, "system": "Linux 6.1",
                "instructions": ["avx512_vnni", "amx_int8"]},
    "versions": {"python": "3.11", "torch": "2.13.0", "transformers": "5.2.0", "onnxruntime": "1.23"},
    "teacher": {"quality": 89.7, "quality_ci95": [87.6, 91.6], "latency_ms": 6.1, "throughput_per_s": 500,
                "bytes": 91_000_000, "parameters": 22_700_000},
    "baselines": {
        "torch_eager": {"quality": 89.7, "quality_ci95": [87.6, 91.6], "latency_ms": 6.1, "throughput_per_s": 500,
                        "bytes": 91_000_000},
        "onnxruntime_int8": {"quality": 89.1, "quality_ci95": [86.9, 91.1], "latency_ms": 2.2,
                             "throughput_per_s": 1300, "bytes": 23_400_000},
        "openvino_int8": {"quality": 89.5, "quality_ci95": [87.4, 91.4], "latency_ms": 2.6, "throughput_per_s": 1250,
                          "bytes": 24_000_000}},
    "result": {"quality": 88.9, "quality_ci95": [86.7, 90.9], "drop": 0.8, "drop_ci95": [-0.4, 1.9], "p_value": 0.21,
               "latency_ms": 0.837, "throughput_per_s": 3900, "bytes": 11_800_000, "parameters": 4_380_000,
               "speedup_vs_eager": 7.29, "engine": "onnxruntime", "form": "fused-int8"},
    "forms": FORMS,
    "gates": [{"name": "speedup", "passed": True, "value": 7.29, "limit": 7.0},
              {"name": "drop", "passed": True, "value": 0.8, "limit": 1.5},
              {"name": "size, MB", "passed": True, "value": 11.8, "limit": 20},
              {"name": "parity onnxruntime", "passed": True, "value": 2e-6, "limit": 1e-3}],
    "steps": [{"name": "prune", "seconds": 12.3, "quality": 85.1, "bytes": 31_000_000, "note": "6 layers → 4 layers"},
              {"name": "distill", "seconds": 341.0, "quality": 89.0, "bytes": 31_000_000},
              {"name": "quantize", "seconds": 3.2, "quality": 88.9, "bytes": 11_800_000}],
    "blueprint": RESULT.to_dict(), "teacher_blueprint": TEACHER.to_dict(), "kept_layers": [0, 2, 3, 5],
    "flipped": {"worse": 12, "better": 9, "examples": [
        {"text": "it 's not a bad film", "gold": "positive", "teacher": "negative", "result": "positive"},
        {"text": "这家酒店的早餐很一般，但是位置确实方便。", "gold": "positive", "teacher": "positive", "result": "negative"},
        {"text": ["<script>alert(1)</script>", "a pair"], "gold": 1, "teacher": 1, "result": 0}]},
    "tests": [{"data": "imdb.jsonl", "quality": 84.0, "quality_ci95": [82.0, 86.0], "teacher_quality": 85.3,
               "drop": 1.3, "drop_ci95": [0.2, 2.4]}],
}  # fmt: skip
MINIMAL: dict[str, Any] = {
    "task": "tagging",
    "metric": "f1",
    "teacher": {"quality": 80.0},
    "result": {"quality": 79.0, "drop": 1.0, "drop_ci95": None},
    "gates": [],
    "steps": [],
    "blueprint": RESULT.to_dict(),
}


@pytest.mark.parametrize("report", [FULL, MINIMAL, {}, dict.fromkeys(FULL)])
def test_page_and_card_render_whatever_is_there(report: dict[str, Any]) -> None:
    assert page(report).rstrip().endswith("</html>")
    assert model_card(report).startswith("---\nlibrary_name")


@pytest.mark.parametrize("absent", sorted(FULL))
def test_page_does_without_any_one_field(absent: str) -> None:
    assert "<h1>" in page({name: value for name, value in FULL.items() if name != absent})


def test_page_escapes_texts() -> None:
    attack = "<script>alert(1)</script>"
    report = {
        **FULL,
        "command": attack,
        "forms": [{**FORMS[1], "name": attack}],
        "tests": [{**FULL["tests"][0], "data": attack}],
    }
    rendered = page(report)
    assert "<script" not in rendered
    assert rendered.count("&lt;script&gt;") >= 4


def test_page_loads_nothing() -> None:
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<link|<script""", page(FULL))


def test_page_pictures_are_xml() -> None:
    pictures = re.findall(r"<svg xmlns.*?</svg>(?=\s*<figcaption)", page(FULL), re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert [child.tag.rpartition("}")[2] for child in root[:2]] == ["title", "desc"]


def test_pictures_of_edges_are_xml() -> None:
    bare = RESULT.with_layers(())
    grown = TEACHER.with_layers((Layer(16, 4096),) * 8)
    for svg in (
        latency_svg([]),
        latency_svg([Row("<&>", "result", latency_ms=0.0, quality=50.0)], limit=1.0),
        size_svg([Row("一", "form", bytes=10.0)]),
        drop_svg([("equal", 0.0, (0.0, 0.0))]),
        blueprint_svg(TEACHER, bare, []),
        blueprint_svg(bare, TEACHER),
        blueprint_svg(TEACHER, grown, [0, 1]),
    ):
        ElementTree.fromstring(svg)


def test_blueprint_picture_shows_as_many_cells_as_heads() -> None:
    root = ElementTree.fromstring(blueprint_svg(TEACHER, RESULT, [0, 2, 3, 5]))
    after = root.findall("{*}svg")[1]
    heads = [box for box in after.iter("{http://www.w3.org/2000/svg}rect") if box.get("width") == "1.90%"]
    assert sum(box.get("class") == "result" for box in heads) == sum(layer.heads for layer in RESULT.layers)
    assert len(heads) == sum(layer.heads for layer in TEACHER.layers)


@pytest.mark.parametrize(
    ("drop", "ci", "said"),
    [
        (0.8, [-0.4, 1.9], "0.8 points lost (95 %: −0.4 … 1.9)"),
        (-0.3, [-1.4, 0.8], "0.3 points gained (95 %: −0.8 … 1.4)"),
        (0.0, None, "no quality lost,"),
    ],
)
def test_verdict_tells_what_was_lost(drop: float, ci: list[float] | None, said: str) -> None:
    sentence = verdict({**FULL, "result": {**FULL["result"], "drop": drop, "drop_ci95": ci}})
    assert sentence.startswith("7.3× faster than eager PyTorch, ") and sentence.endswith(" 7.7× smaller.")
    assert said in sentence


def test_verdict_tells_what_was_not_met() -> None:
    gates = [{"name": "speedup", "passed": False, "value": 5.1, "limit": 7.0}, FULL["gates"][1]]
    sentence = verdict({**FULL, "met": False, "gates": gates})
    assert sentence.startswith("Speedup is 5.1, at least 7 was asked. The best found: 7.3× faster")


def test_numbers() -> None:
    assert [significant(value) for value in (0, 0.8371, 6.1, 123.4, 1250)] == ["0.00", "0.837", "6.10", "123", "1,250"]
    assert [count(value) for value in (0, 999, 22.7e6, 1.814e9)] == ["0", "999", "22.7 M", "1.81 G"]
    assert [size(value) for value in (12, 999_999, 91e6)] == ["12 B", "1.00 MB", "91.0 MB"]


@pytest.mark.parametrize("blueprint", [TEACHER, RESULT, RESULT.with_layers(()), TEACHER.with_layers((Layer(64, 16384),) * 24)])
def test_inspect_fits_the_terminal(blueprint: Blueprint) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(inspect_text(blueprint))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    assert sum(bool(re.match(r"\s*\d+ ", line)) for line in lines) == len(blueprint.layers)
    assert {"parameters", "MACs, 32 tokens", "MACs, 128 tokens"} <= {re.split(r"\s{2,}", line.strip())[0] for line in lines}


def test_model_card_names_the_loaders() -> None:
    card = model_card(FULL)
    assert 'AutoModelForSequenceClassification.from_pretrained(".", trust_remote_code=True)' in card
    assert 'penjing.load("..")' in card
    assert "AutoModelForTokenClassification" in model_card({"blueprint": {**RESULT.to_dict(), "head": "token"}})

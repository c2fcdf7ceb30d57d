"""The report: what it claims and what not; it renders whatever a run holds, reads nothing that no run writes, loads nothing, escapes
texts; its pictures are XML."""

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from commands import prepare, run
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Undefined
from markupsafe import Markup
from rich.console import Console

from penjing.blueprint import Blueprint, Layer
from penjing.job.proof import BASELINES
from penjing.report import page as report_page
from penjing.report.drawing import (
    Bin,
    Row,
    blueprint_svg,
    count,
    drop_svg,
    inspect_text,
    latency_svg,
    reliability_svg,
    significant,
    size,
    size_svg,
)
from penjing.report.page import model_card, page, verdict

TEACHER = Blueprint(30522, 512, 2, 384, 384, 32, (Layer(12, 1536),) * 6, "sequence", 2)
RESULT = Blueprint(12000, 512, 2, 128, 256, 32, (Layer(9, 820), Layer(4, 700), Layer(0, 512), Layer(7, 0)), "sequence", 2)


def timed(latency_ms: float, throughput_per_s: float, steady: bool = True) -> dict[str, Any]:
    """The figures of a measurement, as `Measurement.figures`."""
    return {
        "latency_ms": latency_ms, "latency_p95_ms": 1.5 * latency_ms, "latency_p99_ms": 2 * latency_ms, "end_to_end_ms": latency_ms + 0.1,
        "throughput_per_s": throughput_per_s, "load_s": 0.2, "cold_start_s": 0.3, "peak_mb": 80.0, "steady": steady,
    }  # fmt: skip


def gate(name: str, passed: bool, value: float | None, limit: float, asked: bool = True, decides: bool = True) -> dict[str, Any]:
    return {"name": name, "passed": passed, "value": value, "limit": limit, "asked": asked, "decides": decides}


def scores(off: float) -> dict[str, Any]:
    bins = [{"low": 0.6, "high": 0.7, "examples": 40, "confidence": 0.65, "accuracy": 0.65 - off},
            {"low": 0.9, "high": 1.0, "examples": 832, "confidence": 0.97, "accuracy": 0.97 - off}]  # fmt: skip
    return {"ece": off, "brier": 0.17, "nll": 0.31, "reliability": bins}


EAGER = {"quality": 89.7, "quality_ci95": [87.6, 91.6], "form": "torch eager", "bytes": 91_000_000} | timed(6.1, 500)
FORMS: list[dict[str, Any]] = [
    {"name": "onnxruntime fused int8", "engine": "onnxruntime", "chosen": True, "bytes": 11_800_000, "held_out_quality": 95.1, "loss": 0.2,
     "fit": True, "quality": 88.9} | timed(0.837, 3900),
    {"name": "openvino int8", "engine": "openvino", "chosen": False, "bytes": 12_400_000, "held_out_quality": 94.9, "loss": 0.4,
     "fit": True} | timed(1.02, 3100, steady=False),
    {"name": "onnxruntime int8", "engine": "onnxruntime", "chosen": False, "bytes": 12_400_000, "held_out_quality": 90.1, "loss": 5.2,
     "fit": False} | dict.fromkeys(timed(1, 1)),
]  # fmt: skip
GATES = [
    gate("speedup", True, 7.29, 7.0),
    gate("steady machine", True, 1.0, 1.0, asked=False, decides=False),
    gate("size_mb", True, 11.8, 20),
    gate("drop", True, 0.8, 1.5),
    gate("float32 parity, onnxruntime", True, 2e-6, 1e-3, asked=False),
    gate("int8 loss on texts held out, onnxruntime fused int8", True, 0.2, 1.5, asked=False),
    gate("int8 loss on texts held out, onnxruntime int8", False, 5.2, 1.5, asked=False, decides=False),
]
FULL: dict[str, Any] = {
    "penjing": "0.1.0", "task": "classification", "metric": "accuracy", "metric_said": "accuracy: the convention", "met": True,
    "asked": {"model": "teachers/sst2", "train": "sst2/train.jsonl.gz", "eval": "sst2/validation.jsonl.gz", "speedup": 7.0,
              "latency_ms": None, "size_mb": 20, "max_drop": 1.5, "confidence": None, "engine": None, "threads": 2,
              "recipe": {"prune": None, "gradual": None, "sparsify": None, "quantize": {"scheme": "any"}}},
    "command": "penjing compress --model teachers/sst2 --task classification --train sst2/train.jsonl.gz "
               "--eval sst2/validation.jsonl.gz --out small --speedup 7 --size-mb 20 --max-drop 1.5 --threads 2",
    "date": "2026-11-21T10:00:00Z", "commit": "abc123", "seed": 0,
    "workload": {"lengths_p50": 24, "lengths_p95": 44, "batch": 1, "threads": 2, "texts": 100},
    "machine": {"cpu": "Intel Xeon Platinum 8488C", "cores": 2, "memory_gb": 24, "system": "Linux 6.1",
                "instructions": ["avx512_vnni", "amx_int8"]},
    "versions": {"python": "3.11", "torch": "2.13.0", "transformers": "5.2.0", "onnxruntime": "1.23"},
    "teacher": EAGER | {"parameters": 22_700_000},
    "baselines": {
        "torch_eager": EAGER,
        "onnxruntime_int8": {"quality": 89.1, "quality_ci95": [86.9, 91.1], "bytes": 23_400_000,
                             "form": BASELINES["onnxruntime_int8"].name} | timed(2.2, 1300),
        "openvino_int8": {"quality": 89.5, "quality_ci95": [87.4, 91.4], "bytes": 24_000_000,
                          "form": BASELINES["openvino_int8"].name} | timed(2.6, 1250, steady=False)},
    "result": {"quality": 88.9, "quality_ci95": [86.7, 90.9], "teacher_quality": 89.7, "drop": 0.8, "drop_ci95": [-0.4, 1.9],
               "drop_at_most": 1.9, "p_value": 0.21, "bytes": 11_800_000, "parameters": 4_380_000, "engine": "onnxruntime",
               "form": "onnxruntime fused int8", "held_out_quality": 95.1, "float_quality": 89.0, "speedup_vs_eager": 7.29,
               "speedup_range": [7.1, 7.5], "disturbance": "", "macs": 0.3, "kernels": "AVX-512 VNNI", "float_layers": [],
               "temperature": 1.2} | timed(0.837, 3900),
    "forms": FORMS, "gates": GATES,
    "steps": [{"name": "prune", "seconds": 12.3, "quality": 85.1, "bytes": 31_000_000, "note": "6 layers → 4 layers"},
              {"name": "distill", "seconds": 341.0, "quality": 89.0, "bytes": 31_000_000, "note": None},
              {"name": "verify", "seconds": 3.2, "quality": 88.9, "bytes": 11_800_000, "note": None}],
    "blueprint": RESULT.to_dict(), "teacher_blueprint": TEACHER.to_dict(), "kept_layers": [0, 2, 3, 5], "student": {},
    "held_out": {"examples": 1000, "drop": 0.4}, "overlap": {"same": 12, "inside": 34, "examples": 872},
    "flipped": {"worse": 12, "better": 9, "examples": [
        {"text": "it 's not a bad film", "gold": "positive", "teacher": "negative", "result": "positive"},
        {"text": "这家酒店的早餐很一般，但是位置确实方便。", "gold": "positive", "teacher": "positive", "result": "negative"},
        {"text": "<script>alert(1)</script> | a pair", "gold": "1", "teacher": "1", "result": "0"}],
        "by_label": [{"label": "positive", "examples": 444, "worse": 12, "better": 1, "p": 0.003, "p_holm": 0.006},
                     {"label": "negative", "examples": 428, "worse": 0, "better": 8, "p": 0.2, "p_holm": 0.2}]},
    "scores": {"temperature": 1.2, "teacher": scores(0.04), "before": scores(0.06), "after": scores(0.02), "examples": 1000},
    "tests": [{"data": "imdb.jsonl", "quality": 84.0, "quality_ci95": [82.0, 86.0], "teacher_quality": 85.3, "drop": 1.3,
               "drop_ci95": [0.2, 2.4], "drop_at_most": 2.4, "p_value": 0.02, "overlap": {"same": 3, "inside": 0, "examples": 1500}}],
    "shapes": [{"batch": 1, "tokens": 24, "own": True, "form": "onnxruntime fused int8", "teacher_ms": 2.0, "latency_ms": 0.8,
                "speedup": 2.5, "steady": True, "macs": 0.3}],
    "stored": {"dense_bytes": 9_000_000, "dense_load_s": 0.1, "packed_bytes": 1_000_000, "packed_load_s": 0.2, "zeros": 0.1, "sparsity": 0.5,
               "bits": {"encoder.layers.0.attention.query.weight": {"codec": "linear", "bits": 4, "entries": 1024}}},
}  # fmt: skip
BUSY = {"speedup_vs_eager": None, "steady": False, "disturbance": "other processes take 1.2 of 2 processors"}
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
        "metric_said": attack,
        "result": FULL["result"] | BUSY | {"disturbance": attack},
        "baselines": {"torch_eager": EAGER | {"form": attack}},
        "gates": [gate(attack, False, None, 1.0)],
        "flipped": {**FULL["flipped"], "by_label": [{**FULL["flipped"]["by_label"][0], "label": attack}]},
    }
    rendered = page(report)
    assert "<script" not in rendered
    # Verdict (twice) and note, metric, table and two pictures (with their descriptions) of baseline and form, test, gate, flips, command.
    assert rendered.count("&lt;script&gt;") >= 17


def test_page_loads_nothing() -> None:
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<link|<script""", page(FULL))


def test_page_pictures_are_xml() -> None:
    pictures = re.findall(r"<svg xmlns.*?</svg>(?=\s*<figcaption)", page(FULL), re.DOTALL)
    assert len(pictures) == 5
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
        reliability_svg([]),
        reliability_svg([Bin(1.0, 0.0, 1)]),
        reliability_svg([Bin(0.05, 1.0, 3), Bin(0.5, 0.5, 1)], [Bin(1.0, 1.0, 4)]),
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


def test_reliability_picture_has_what_is_believed_truly_on_the_diagonal() -> None:
    """A dot lies below the diagonal where the scores say too much, above it where too little."""
    bins = [Bin(0.7, 0.7, 10), Bin(0.8, 0.6, 40), Bin(0.9, 1.0, 10)]
    root = ElementTree.fromstring(reliability_svg(bins))
    diagonal = next(line for line in root.iter("{http://www.w3.org/2000/svg}line") if line.get("class") == "gone")
    x1, y1, x2, y2 = (float(diagonal.get(name, "").rstrip("%")) for name in ("x1", "y1", "x2", "y2"))
    dots = [
        (float(dot.get("cx", "").rstrip("%")), float(dot.get("cy", "")), float(dot.get("r", "")))
        for dot in root.iter("{http://www.w3.org/2000/svg}circle")
    ]
    above = [y1 + (y2 - y1) * (x - x1) / (x2 - x1) - y for x, y, _ in dots]
    assert above[0] == pytest.approx(0, abs=0.1) and above[1] < -20 and above[2] > 10
    assert dots[1][2] > dots[0][2] == dots[2][2]


# -- the verdict ---------------------------------------------------------------------------------------------------


def said(met: bool | None = True, gates: list[dict[str, Any]] | None = None, **result: Any) -> str:
    """The verdict, of results by compress: not held against the uncut model in the same form."""
    return verdict({**FULL, "shapes": [], "met": met, "gates": gates or [], "result": {**FULL["result"], **result}})


@pytest.mark.parametrize(
    ("drop", "most", "expected"),
    [
        (0.8, 1.9, "0.8 points lost, 1.9 at most (95 %; p = 0.21)"),
        (-0.3, 0.8, "0.3 points gained, 0.8 lost at most (95 %; p = 0.21)"),
        (-0.9, -0.2, "0.9 points gained, 0.2 at least (95 %; p = 0.21)"),
        (0.0, 0.4, "no quality lost, 0.4 points at most (95 %; p = 0.21)"),
        (0.8, None, "0.8 points lost,"),
    ],
)
def test_verdict_tells_what_was_lost_and_at_most(drop: float, most: float | None, expected: str) -> None:
    sentence = said(drop=drop, drop_at_most=most)
    assert sentence.startswith("7.3× faster than eager PyTorch, ") and sentence.endswith(" 7.7× smaller.")
    assert expected in sentence


def test_verdict_tells_at_what_confidence() -> None:
    assert "1.9 at most (90 %" in verdict({**FULL, "asked": {**FULL["asked"], "confidence": 0.9}})


@given(st.booleans(), st.booleans(), st.none() | st.floats(0.1, 99), st.floats(0.1, 99))
def test_a_speed_up_is_claimed_only_of_a_quiet_machine(steady: bool, own: bool, speedup: float | None, against_uncut: float) -> None:
    """Neither of eager PyTorch, nor of the uncut model; what is claimed is said once."""
    sentence = verdict({
        **FULL,
        "result": FULL["result"] | BUSY | {"steady": steady, "speedup_vs_eager": speedup},
        "shapes": [{**FULL["shapes"][0], "steady": own, "speedup": against_uncut}],
    })  # fmt: skip
    claimed = re.findall(r"× (?:fast|slow)er than (eager PyTorch|the uncut model in the same form)", sentence)
    assert claimed == ["the uncut model in the same form"] * own + ["eager PyTorch"] * (steady and speedup is not None)
    assert ("too busy to say how much faster (other processes take 1.2 of 2 processors)" in sentence) == (not steady)


def test_verdict_names_every_gate_that_decides_and_failed() -> None:
    gates = [
        gate("speedup", False, None, 7.0),
        gate("steady machine", False, 0.0, 1.0, asked=False, decides=False),
        gate("drop_at_most", False, 1.9, 1.5),
        gate("size_mb", True, 11.8, 20.0),
        gate("int8 loss on texts held out, a", False, 0.75, 0.5, asked=False),
        gate("int8 loss on texts held out, b", False, 0.75, 0.5, asked=False, decides=False),
    ]
    first, _, rest = said(False, gates, **BUSY).partition(". The best found: ")
    assert first == (
        "Speed-up: not measured, at least 7 was asked, points that may have been lost (the interval’s end): 1.9, at most 1.5 was asked,"
        " int8 loss on texts held out, a: 0.75, at most 0.5 is allowed"
    )
    assert rest.startswith("the machine was too busy to say how much faster (")


@pytest.mark.parametrize(("name", "bound"), [("speedup", "at least"), ("sparsity", "at least"), ("steady machine", "at least"), ("macs", "at most"),
                                             ("drop", "at most"), ("latency_ms", "at most"), ("float32 parity, onnxruntime", "at most")])  # fmt: skip
def test_gates_are_bounds_in_their_own_direction(name: str, bound: str) -> None:
    assert f"{bound} 0.5</td>" in page({"gates": [gate(name, True, 0.6, 0.5)]})


def test_met_is_yes_or_no_and_nothing_where_nothing_was_asked() -> None:
    marks = ("Budget met", "Budget not met", "Nothing was asked: nothing was cut", "No limit was asked")
    as_it_is = {"steps": [{"name": name} for name in ("baseline", "quantize", "export", "choose", "verify")]}
    static = {"asked": {"recipe": {"quantize": {"scheme": "static"}}}}
    for changes, mark in (
        ({"met": True}, 0), ({"met": False}, 1), ({"met": None} | as_it_is, 2), ({"met": None}, 3), ({"met": None} | as_it_is | static, 3),
    ):  # fmt: skip
        assert [mark for mark in marks if mark in page({**FULL, **changes})] == [marks[mark]], changes


# -- the page's tables ---------------------------------------------------------------------------------------------


def rows(rendered: str, title: str) -> dict[str, list[str]]:
    """The cells of a section's tables, without their small figures, by what heads the row."""
    section = next(part for part in rendered.split("<section>") if part.lstrip().startswith(f"<h2>{title}</h2>"))
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", section, re.DOTALL)]
    return {re.sub(r"<.*", "", cells[0]): cells[1:] for cells in found}


def test_rows_that_are_not_steady_are_marked_and_have_no_ratio() -> None:
    def ratios(report: dict[str, Any]) -> dict[str, list[str]]:
        return {name: re.findall(r"([\d.]+)×", cells[1]) for name, cells in rows(page(report), "Result").items()}

    steady, busy = BASELINES["onnxruntime_int8"].name.replace("'", "&#39;"), BASELINES["openvino_int8"].name.replace("'", "&#39;")
    result = "Result, onnxruntime fused int8"
    found = ratios(FULL)
    assert found[steady] == ["2.77"] and found[busy] == [] and found[result] == ["7.29"] and found["torch eager, teacher"] == []
    assert page(FULL).count("<small>not steady</small>") == 2  # one baseline, one form
    assert ratios({**FULL, "result": FULL["result"] | BUSY})[result] == []
    unsteady = {**FULL["baselines"], "torch_eager": EAGER | {"steady": False}}
    assert ratios({**FULL, "baselines": unsteady})[steady] == []
    own = rows(page({**FULL, "shapes": [FULL["shapes"][0] | {"steady": False}]}), "What was cut, and what it brings")
    assert "2.5" not in own["onnxruntime fused int8, batch 1, the data’s own lengths"][3]


def test_forms_tell_why_they_are_shipped_or_not_and_a_missing_figure_is_a_dash() -> None:
    found = rows(page(FULL), "All forms measured")
    assert [cells[-1] for cells in found.values()] == ["", "shipped", "slower", "failed: int8 loss on texts held out"]
    assert found["onnxruntime int8"][2:6] == ["–"] * 4 and found["onnxruntime int8"][:2] == ["90.1", "5.2"]
    assert "88.9" not in "".join(found["onnxruntime fused int8"])  # the quality on the evaluation data


def test_labels_that_lost_are_marked_by_the_corrected_p() -> None:
    found = rows(page(FULL), "Answers that changed")
    assert found["positive"][-1] == "✗ worse" and found["negative"][-1] == ""
    uncorrected = [{**FULL["flipped"]["by_label"][0], "p": 0.03, "p_holm": 0.06}]
    assert rows(page({**FULL, "flipped": {**FULL["flipped"], "by_label": uncorrected}}), "Answers that changed")["positive"][-1] == ""


def test_overlap_with_the_training_texts_is_counted() -> None:
    assert "Of the 872 evaluation texts, 12 are training texts and 34 stand in one" in page(FULL)
    assert "None of the 872 evaluation texts" in page({**FULL, "overlap": {"same": 0, "inside": 0, "examples": 872}})
    assert rows(page(FULL), "Quality")["imdb.jsonl"][-2:] == ["1,500", "3"]


def test_where_no_temperature_helped_one_curve_is_drawn() -> None:
    report = {**FULL, "scores": {**FULL["scores"], "temperature": 1.0}}
    assert "at the temperature" not in page(report) and "with T = 1:" in page(report)
    assert "at the temperature: " in page(FULL) and "with T = 1.2," in page(FULL)


# -- the schema ----------------------------------------------------------------------------------------------------


class Strict(dict[str, Any]):
    """A part of a report that is asked only for what it has."""

    def get(self, key: str, default: Any = None) -> Any:
        assert key in self, f"no run writes {key!r}; there are {', '.join(self)}"
        return self[key]


class Missing(Undefined):
    """What a template asks for that is not there; a picture may be missing."""

    def __init__(self, hint: str | None = None, obj: Any = None, name: str | None = None, exc: Any = None) -> None:
        picture = isinstance(obj, dict) and all(isinstance(value, Markup) for value in obj.values())
        assert picture, f"no run writes {name!r}; there are {', '.join(obj) if isinstance(obj, dict) else obj}"
        super().__init__(hint, obj, name)


def strict(value: Any) -> Any:
    if isinstance(value, dict):
        return Strict({key: strict(part) for key, part in value.items()})
    return [strict(part) for part in value] if isinstance(value, list) else value


def render_strictly(report: dict[str, Any]) -> None:
    """The page and the card; an AssertionError where they read what the report does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "ChainableUndefined", Missing)
        page(strict(report))
        model_card(strict(report))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of runs: sparse and cut by hand, stored in few bits, and of a student that is no BERT."""
    found: list[dict[str, Any]] = []
    for task, command, *options in (
        ("tagging", "prune", "--macs", "0.5", "--sparsity", "0.5", "--no-training"),
        ("classification", "quantize", "--scheme", "linear", "--bits", "4"),
        ("pair", "distill", "--preset", "logistic"),
    ):
        folder = tmp_path_factory.mktemp(command)
        given = [*prepare(folder, task), "--test", str(folder / "dev.jsonl"), "--out", str(folder / "out"), "--threads", "1", "--json"]
        found.append(json.loads(run(command, *given, *options)))
        assert Path(folder / "out" / "report.html").is_file()
    return found


def test_page_and_card_read_nothing_that_no_run_writes(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        render_strictly(report)


@pytest.mark.parametrize("path", ["metric_said", "held_out.examples", "result.drop_at_most", "result.latency_p99_ms", "baselines.torch_eager.peak_mb",
                                  "scores.after.ece", "overlap.inside", "gates.0.decides", "forms.0.held_out_quality",
                                  "shapes.0.steady", "tests.0.overlap", "flipped.by_label.0.p_holm"])  # fmt: skip
def test_a_field_of_another_name_would_be_noticed(reports: list[dict[str, Any]], path: str) -> None:
    report = json.loads(json.dumps(reports[0]))
    *outer, last = path.split(".")
    part = report
    for name in outer:
        part = part[int(name)] if name.isdigit() else part[name]
    part["renamed"] = part.pop(last)
    with pytest.raises(AssertionError, match="no run writes"):
        render_strictly(report)


def test_the_report_made_by_hand_has_the_fields_of_a_run(reports: list[dict[str, Any]]) -> None:
    def compare(own: Any, real: Any, place: str) -> None:
        if isinstance(own, dict) and isinstance(real, dict):
            assert own.keys() <= real.keys(), (place, own.keys() - real.keys())
            for key in own:
                compare(own[key], real[key], f"{place}.{key}")
        elif isinstance(own, list) and isinstance(real, list) and own and isinstance(own[0], dict) and real:
            compare(own[0], {key: value for each in real for key, value in each.items()}, place)

    compare({**FULL, "stored": {**FULL["stored"], "bits": {}}}, reports[0], "report")


# -- figures, the terminal, the card -------------------------------------------------------------------------------


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


def test_model_card_has_the_same_facts_in_short() -> None:
    card = model_card(FULL)
    assert verdict(FULL) in card and "Quality is accuracy: the convention." in card
    assert "| lost, and at most (95 %) | | 0.8, 1.9 |" in card and "| end to end, ms | 6.2 | 0.937 |" in card
    assert "| latency p99, ms | 12.2 | 1.67 |" in card and "T = 1.2: 6.0 → 2.0 points" in card
    assert "46 stand in the training data" in card and "busy" not in card
    assert "other processes take" in model_card({**FULL, "result": FULL["result"] | BUSY})

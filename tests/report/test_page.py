"""The page and the card: what they claim and what not; every part that may be absent is left out, nothing is loaded, texts are escaped;
the pictures are XML."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from commands import prepare, run
from hypothesis import given
from hypothesis import strategies as st
from reports import ASKED, BUSY, EAGER, FORMS, FULL, RESULT, SHAPE, STORED, TEACHER, with_result

from penjing.blueprint import HEADS, Layer
from penjing.errors import InputError
from penjing.files.records import from_json, to_json
from penjing.files.run import StepRecord
from penjing.job.baseline import BASELINES
from penjing.maths.scores import ReliabilityBin
from penjing.report.drawing import (
    Row,
    blueprint_svg,
    count,
    drop_svg,
    latency_svg,
    reliability_svg,
    significant,
    size,
    size_svg,
)
from penjing.report.page import model_card, page
from penjing.report.record import Gate, Overlap, Report, StudentRow
from penjing.report.verdict import verdict

NOTHING = replace(
    FULL, met=None, asked=None, commit=None, gates=(), steps=(), blueprint=None, kept_layers=(), student=StudentRow("static", "sequence", False),
    tests=(), shapes=(), stored=None, flipped=replace(FULL.flipped, examples=(), by_label=()),
)  # fmt: skip
"""Without every part that a report may lack."""
ABSENT: dict[str, dict[str, Any]] = {
    name: {name: getattr(NOTHING, name)}
    for name in ("met", "asked", "commit", "gates", "steps", "blueprint", "tests", "shapes", "stored", "flipped")
}


def dot(confidence: float, accuracy: float, examples: int) -> ReliabilityBin:
    """A bin of a reliability diagram, whose edges are not drawn."""
    return ReliabilityBin(0.0, 1.0, examples, confidence, accuracy)


@pytest.mark.parametrize("report", [FULL, NOTHING], ids=["full", "nothing"])
def test_page_and_card_render_whatever_is_there(report: Report) -> None:
    assert page(report).rstrip().endswith("</html>")
    assert model_card(report).startswith("---\nlibrary_name")


@pytest.mark.parametrize("absent", ABSENT)
def test_page_does_without_any_part_that_may_be_absent(absent: str) -> None:
    report = replace(FULL, **ABSENT[absent])
    assert "<h1>" in page(report) and page(report) != page(FULL)
    assert "None" not in page(report).replace("None of the", "") and "None" not in model_card(report)


def test_page_escapes_texts() -> None:
    attack = "<script>alert(1)</script>"
    report = replace(
        with_result(**BUSY | {"disturbance": attack}),
        command=attack,
        forms=(replace(FORMS[1], name=attack),),
        tests=(replace(FULL.tests[0], data=attack),),
        metric_said=attack,
        baselines={"torch_eager": replace(EAGER, form=attack)},
        gates=(Gate(attack, False, None, 1.0),),
        flipped=replace(FULL.flipped, by_label=(replace(FULL.flipped.by_label[0], label=attack),)),
    )
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
        reliability_svg([dot(1.0, 0.0, 1)]),
        reliability_svg([dot(0.05, 1.0, 3), dot(0.5, 0.5, 1)], [dot(1.0, 1.0, 4)]),
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
    bins = [dot(0.7, 0.7, 10), dot(0.8, 0.6, 40), dot(0.9, 1.0, 10)]
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


def said(met: bool | None = True, gates: tuple[Gate, ...] = (), **result: Any) -> str:
    """The verdict, of results by compress: not held against the uncut model in the same form."""
    return verdict(replace(with_result(**result), shapes=(), met=met, gates=gates))


@pytest.mark.parametrize(
    ("drop", "most", "expected"),
    [
        (0.8, 1.9, "0.8 points lost, 1.9 at most (95 %; p = 0.21)"),
        (-0.3, 0.8, "0.3 points gained, 0.8 lost at most (95 %; p = 0.21)"),
        (-0.9, -0.2, "0.9 points gained, 0.2 at least (95 %; p = 0.21)"),
        (0.0, 0.4, "no quality lost, 0.4 points at most (95 %; p = 0.21)"),
        (0.8, 0.9, "0.8 points lost, 0.9 at most"),
    ],
)
def test_verdict_tells_what_was_lost_and_at_most(drop: float, most: float, expected: str) -> None:
    sentence = said(drop=drop, drop_at_most=most)
    assert sentence.startswith("7.3× faster than eager PyTorch, ") and sentence.endswith(" 7.7× smaller.")
    assert expected in sentence


def test_verdict_tells_at_what_confidence() -> None:
    assert "1.9 at most (90 %" in verdict(replace(FULL, asked=replace(ASKED, confidence=0.9)))


@given(st.booleans(), st.booleans(), st.none() | st.floats(0.1, 99), st.floats(0.1, 99))
def test_a_speed_up_is_claimed_only_of_a_quiet_machine(steady: bool, own: bool, speedup: float | None, against_uncut: float) -> None:
    """Neither of eager PyTorch, nor of the uncut model; what is claimed is said once."""
    report = with_result(**BUSY | {"steady": steady, "speedup_vs_eager": speedup})
    sentence = verdict(replace(report, shapes=(replace(SHAPE, steady=own, speedup=against_uncut),)))
    claimed = re.findall(r"× (?:fast|slow)er than (eager PyTorch|the uncut model in the same form)", sentence)
    assert claimed == ["the uncut model in the same form"] * own + ["eager PyTorch"] * (steady and speedup is not None)
    assert ("too busy to say how much faster (other processes take 1.2 of 2 processors)" in sentence) == (not steady)


def test_verdict_names_every_gate_that_decides_and_failed() -> None:
    gates = (
        Gate("speedup", False, None, 7.0),
        Gate("steady machine", False, 0.0, 1.0, asked=False, decides=False),
        Gate("drop_at_most", False, 1.9, 1.5),
        Gate("size_mb", True, 11.8, 20.0),
        Gate("int8 loss on texts held out, a", False, 0.75, 0.5, asked=False),
        Gate("int8 loss on texts held out, b", False, 0.75, 0.5, asked=False, decides=False),
    )
    first, _, rest = said(False, gates, **BUSY).partition(". The best found: ")
    assert first == (
        "Speed-up: not measured, at least 7 was asked, points that may have been lost (the interval’s end): 1.9, at most 1.5 was asked,"
        " int8 loss on texts held out, a: 0.75, at most 0.5 is allowed"
    )
    assert rest.startswith("the machine was too busy to say how much faster (")


@pytest.mark.parametrize(("name", "bound"), [("speedup", "at least"), ("sparsity", "at least"), ("steady machine", "at least"), ("macs", "at most"),
                                             ("drop", "at most"), ("latency_ms", "at most"), ("float32 parity, onnxruntime", "at most")])  # fmt: skip
def test_gates_are_bounds_in_their_own_direction(name: str, bound: str) -> None:
    assert f"{bound} 0.5</td>" in page(replace(FULL, gates=(Gate(name, True, 0.6, 0.5),)))


def test_met_is_yes_or_no_and_nothing_where_nothing_was_asked() -> None:
    marks = ("Budget met", "Budget not met", "Nothing was asked: nothing was cut", "No limit was asked")
    none = replace(FULL, met=None)
    as_it_is = replace(
        none, steps=tuple(StepRecord(name, 1.0, None, None, None) for name in ("baseline", "quantize", "export", "choose", "verify"))
    )
    static = replace(as_it_is, asked=replace(ASKED, recipe=({"quantize": {"scheme": "static"}},)))
    for report, mark in ((FULL, 0), (replace(FULL, met=False), 1), (as_it_is, 2), (none, 3), (static, 3)):
        assert [mark for mark in marks if mark in page(report)] == [marks[mark]], marks[mark]


# -- the page's tables ---------------------------------------------------------------------------------------------


def rows(rendered: str, title: str) -> dict[str, list[str]]:
    """The cells of a section's tables, without their small figures, by what heads the row."""
    section = next(part for part in rendered.split("<section>") if part.lstrip().startswith(f"<h2>{title}</h2>"))
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", section, re.DOTALL)]
    return {re.sub(r"<.*", "", cells[0]): cells[1:] for cells in found}


def test_rows_that_are_not_steady_are_marked_and_have_no_ratio() -> None:
    def ratios(report: Report) -> dict[str, list[str]]:
        return {name: re.findall(r"([\d.]+)×", cells[1]) for name, cells in rows(page(report), "Result").items()}

    steady, busy = BASELINES["onnxruntime_int8"].name.replace("'", "&#39;"), BASELINES["openvino_int8"].name.replace("'", "&#39;")
    result = "Result, onnxruntime fused int8"
    found = ratios(FULL)
    assert found[steady] == ["2.77"] and found[busy] == [] and found[result] == ["7.29"] and found["torch eager, teacher"] == []
    assert page(FULL).count("<small>not steady</small>") == 2  # one baseline, one form
    assert ratios(with_result(**BUSY))[result] == []
    unsteady = {**FULL.baselines, "torch_eager": replace(EAGER, figures=replace(EAGER.figures, steady=False))}
    assert ratios(replace(FULL, baselines=unsteady))[steady] == []
    own = rows(page(replace(FULL, shapes=(replace(SHAPE, steady=False),))), "What was cut, and what it brings")
    assert "2.5" not in own["onnxruntime fused int8, batch 1, the data’s own lengths"][3]


def test_forms_tell_why_they_are_shipped_or_not_and_a_missing_figure_is_a_dash() -> None:
    found = rows(page(FULL), "All forms measured")
    assert [cells[-1] for cells in found.values()] == ["", "shipped", "slower", "failed: int8 loss on texts held out"]
    assert found["onnxruntime int8"][5] == "–" and found["onnxruntime int8"][:3] == ["90.1", "5.2", "1"]
    assert "88.9" not in "".join(found["onnxruntime fused int8"])  # the quality on the evaluation data


def test_labels_that_lost_are_marked_by_the_corrected_p() -> None:
    found = rows(page(FULL), "Answers that changed")
    assert found["positive"][-1] == "✗ worse" and found["negative"][-1] == ""
    uncorrected = replace(FULL.flipped, by_label=(replace(FULL.flipped.by_label[0], p=0.03, p_holm=0.06),))
    assert rows(page(replace(FULL, flipped=uncorrected)), "Answers that changed")["positive"][-1] == ""


def test_overlap_with_the_training_texts_is_counted() -> None:
    assert "Of the 872 evaluation texts, 12 are training texts and 34 stand in one" in page(FULL)
    assert "None of the 872 evaluation texts" in page(replace(FULL, overlap=Overlap(0, 0, 872)))
    assert rows(page(FULL), "Quality")["imdb.jsonl"][-2:] == ["1,500", "3"]


def test_where_no_temperature_helped_one_curve_is_drawn() -> None:
    report = replace(FULL, scores=replace(FULL.scores, temperature=1.0))
    assert "at the temperature" not in page(report) and "with T = 1:" in page(report)
    assert "at the temperature: " in page(FULL) and "with T = 1.2," in page(FULL)


# -- of runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of runs: sparse and cut by hand, stored in few bits, and of a student that is no BERT."""
    found: list[Path] = []
    for task, command, *options in (
        ("tagging", "prune", "--macs", "0.5", "--sparsity", "0.5", "--no-training"),
        ("classification", "quantize", "--scheme", "linear", "--bits", "4"),
        ("pair", "distill", "--preset", "logistic"),
    ):
        folder = tmp_path_factory.mktemp(command)
        given = [*prepare(folder, task), "--test", str(folder / "dev.jsonl"), "--out", str(folder / "out"), "--threads", "1", "--json"]
        printed = json.loads(run(command, *given, *options))
        assert printed == json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
        found.append(folder / "out")
    return found


def test_what_a_run_wrote_is_a_report_and_its_page(reports: list[Path]) -> None:
    """report.json is read back without loss, and makes the same page and card again: nothing on them comes from elsewhere."""
    for folder in reports:
        written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        report = from_json(Report, written, str(folder))
        assert to_json(report) == written
        assert page(report) == (folder / "report.html").read_text(encoding="utf-8")
        assert model_card(report) == (folder / "model" / "README.md").read_text(encoding="utf-8")


PATHS = (
    "metric_said", "held_out.examples", "result.drop_at_most", "result.latency_p99_ms", "baselines.torch_eager.peak_mb", "scores.after.ece",
    "overlap.inside", "gates.0.decides", "forms.0.held_out_quality", "shapes.0.steady", "tests.0.overlap", "flipped.by_label.0.p_holm",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_field_of_another_name_is_noticed(path: str) -> None:
    report = json.loads(json.dumps(to_json(FULL)))
    *outer, last = path.split(".")
    part: Any = report
    for name in outer:
        part = part[int(name)] if name.isdigit() else part[name]
    part["renamed"] = part.pop(last)
    with pytest.raises(InputError, match="'renamed' is unknown"):
        from_json(Report, report, "report.json")


def test_the_report_made_by_hand_has_the_fields_of_a_run(reports: list[Path]) -> None:
    def compare(own: Any, real: Any, place: str) -> None:
        if isinstance(own, Mapping) and isinstance(real, Mapping):
            assert own.keys() <= real.keys(), (place, own.keys() - real.keys())
            for key in own:
                compare(own[key], real[key], f"{place}.{key}")
        elif isinstance(own, list) and isinstance(real, list) and own and isinstance(own[0], Mapping) and real:
            compare(own[0], {key: value for each in real for key, value in each.items()}, place)

    made = replace(FULL, stored=replace(STORED, bits={}), asked=replace(ASKED, recipe=()))
    compare(json.loads(json.dumps(to_json(made))), json.loads((reports[0] / "report.json").read_text(encoding="utf-8")), "report")


# -- figures, the card ---------------------------------------------------------------------------------------------


def test_numbers() -> None:
    assert [significant(value) for value in (0, 0.8371, 6.1, 123.4, 1250)] == ["0.00", "0.837", "6.10", "123", "1,250"]
    assert [count(value) for value in (0, 999, 22.7e6, 1.814e9)] == ["0", "999", "22.7 M", "1.81 G"]
    assert [size(value) for value in (12, 999_999, 91e6)] == ["12 B", "1.00 MB", "91.0 MB"]


def test_model_card_names_the_loaders() -> None:
    card = model_card(FULL)
    assert 'AutoModelForSequenceClassification.from_pretrained(".", trust_remote_code=True)' in card
    assert 'penjing.load("..")' in card
    token = replace(FULL, blueprint=replace(RESULT, head=HEADS["token"]))
    assert "AutoModelForTokenClassification" in model_card(token)
    student = replace(FULL, blueprint=None, student=StudentRow("bilstm", "token", True))
    assert "AutoModelForTokenClassification" in model_card(student)
    plain = model_card(replace(student, student=StudentRow("static", "sequence", False)))
    assert "AutoModel" not in plain and "library_name: penjing" in plain


def test_model_card_has_the_same_facts_in_short() -> None:
    card = model_card(FULL)
    assert verdict(FULL) in card and "Quality is accuracy: the convention." in card
    assert "| lost, and at most (95 %) | | 0.8, 1.9 |" in card and "| end to end, ms | 6.2 | 0.937 |" in card
    assert "| latency p99, ms | 12.2 | 1.67 |" in card and "T = 1.2: 6.0 → 2.0 points" in card
    assert "46 stand in the training data" in card and "busy" not in card
    assert "other processes take" in model_card(with_result(**BUSY))

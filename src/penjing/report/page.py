"""`report.json` as one HTML page that opens offline, and as the model card of the compressed model's folder.

Both are pure functions of the report's object. Texts in it are data and are escaped; what a report lacks, its page
leaves out. Qualities are points (0-100).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from penjing.blueprint import Blueprint
from penjing.report.drawing import (
    Row,
    blueprint_svg,
    count,
    drop_svg,
    is_number,
    latency_svg,
    significant,
    size,
    size_svg,
)

_NAMES = {
    "torch_eager": "PyTorch eager, the teacher",
    "onnxruntime_int8": "ONNX Runtime int8, the teacher",
    "openvino_int8": "OpenVINO int8, the teacher",
}
_ASKED = {
    "speedup": "at least {}× as fast as PyTorch eager",
    "latency_ms": "at most {} ms",
    "size_mb": "at most {} MB",
    "max_drop": "lose at most {} points",
    "minutes": "in at most {} minutes",
}
_CUT = {
    "macs": "keep {} of the multiply-accumulates",
    "latency": "keep {} of the latency of the blocks",
    "heads": "keep {} of the heads",
    "neurons": "keep {} of the neurons",
    "blocks": "keep {} of the blocks",
    "layers": "keep {} layers",
    "hidden": "keep {} of the hidden units",
    "vocabulary": "keep {} of the tokens",
}
_AUTO = {
    "none": "AutoModel",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "question": "AutoModelForQuestionAnswering",
    "masked": "AutoModelForMaskedLM",
}


def page(report: dict[str, Any]) -> str:
    """The whole page: no script, no font, no link leaves it."""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            verdict=verdict(report),
            targets=_targets(report),
            compared=_compared(report),
            pictures={name: Markup(svg) for name, svg in _pictures(report)},  # texts in them are escaped
            flipped=_flipped(report),
            stored=_stored(report),
        )
    )


def model_card(report: dict[str, Any]) -> str:
    """README.md for the folder of the compressed model: what it is, its figures, how to load it."""
    student = _part(report, "student")
    head = str(student.get("head") or _part(report, "blueprint").get("head", "none"))
    plain = student and not student.get("transformers")
    return (
        _environment()
        .get_template("model_card.md.j2")
        .render(report=report, verdict=verdict(report), auto="" if plain else _AUTO.get(head, "AutoModel"), targets=_targets(report))
    )


def verdict(report: dict[str, Any]) -> str:
    """One sentence: how much faster, what was lost, how much smaller; or first what was not met."""
    found = _sentence(list(_claims(report)))
    if report.get("met") is not False:
        return found
    missed = [_missed(gate) for gate in report.get("gates") or [] if not gate.get("passed") and gate.get("asked", True)]
    return f"{_sentence(missed or ['The budget was not met'])} The best found: {found[:1].lower()}{found[1:]}"


# -- sentences -------------------------------------------------------------------------------------------------


def _claims(report: Mapping[str, Any]) -> Iterator[str]:
    result, teacher = _part(report, "result"), _part(report, "teacher")
    speedup, drop = result.get("speedup_vs_eager"), result.get("drop")
    own: Mapping[str, Any] = next((row for row in report.get("shapes") or [] if row.get("own")), {})
    if is_number(own.get("speedup")) and own["speedup"] > 0:
        yield f"{_times(own['speedup'], 'faster', 'slower')} than the uncut model in the same form"
    if is_number(speedup) and speedup > 0:
        yield f"{_times(speedup, 'faster', 'slower')} than eager PyTorch"
    if is_number(drop):
        interval = _pair(result.get("drop_ci95"))
        gained = round(drop, 1) < 0
        if interval and gained:
            interval = (-interval[1], -interval[0])
        said = "no quality lost" if round(drop, 1) == 0 else f"{abs(drop):.1f} points {'gained' if gained else 'lost'}"
        yield said + (f" (95 %: {_interval(interval)})" if interval else "")
    before, after = teacher.get("bytes"), result.get("bytes")
    if is_number(before) and is_number(after) and before > 0 and after > 0:
        yield _times(before / after, "smaller", "larger")


def _sentence(parts: list[str]) -> str:
    text = ", ".join(parts) or "nothing was measured"
    return text[:1].upper() + text[1:] + "."


def _times(ratio: float, more: str, less: str) -> str:
    word, ratio = (more, ratio) if ratio >= 1 else (less, 1 / ratio)
    return f"{significant(ratio, 2 if ratio < 10 else 3)}× {word}"


def _missed(gate: Mapping[str, Any]) -> str:
    return f"{gate.get('name')} is {_figure(gate.get('value'))}, {_bound(gate)} was asked"


def _bound(gate: Mapping[str, Any]) -> str:
    """The gate's limit with its direction: a speed-up and a sparsity are lower bounds, everything else an upper one."""
    return f"{'at least' if gate.get('name') in ('speedup', 'sparsity') else 'at most'} {_figure(gate.get('limit'))}"


# -- what the template is given --------------------------------------------------------------------------------


def _targets(report: Mapping[str, Any]) -> list[str]:
    """The budget that was asked for, and what was to be cut, in words."""
    asked = _part(report, "asked")
    recipe = _part(asked, "recipe")
    gradual, sparse = recipe.get("gradual"), recipe.get("sparsify")
    cut = {"macs": gradual["part"]} if gradual else _part(recipe, "prune")
    lines = [words.format(_figure(given[name])) for given, table in ((asked, _ASKED), (cut, _CUT)) for name, words in table.items()
             if is_number(given.get(name))]  # fmt: skip
    lines = ["keep the tokens that the texts produce" if line == _CUT["vocabulary"].format("0") else line for line in lines]
    return [*lines, f"set {_figure(sparse['sparsity'])} of the weights to zero"] if sparse else lines


def _compared(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Teacher, baselines, result: a line each, with ratios to the first. Eager PyTorch is the teacher as it came."""
    teacher = _part(report, "teacher")
    baselines = {name: dict(figures or {}) for name, figures in _part(report, "baselines").items()}
    if teacher:
        eager = baselines.pop("torch_eager", {})
        known = {name: value for name, value in eager.items() if value is not None}
        baselines = {"torch_eager": {**teacher, **known}, **baselines}
    lines = [{**figures, "label": _NAMES.get(name, name), "kind": "baseline"} for name, figures in baselines.items()]
    result = _part(report, "result")
    if result:
        label = result.get("form") or result.get("engine")
        lines.append({**result, "label": f"Result, {label}" if label else "Result", "kind": "result"})
    for line in lines:
        for name in ("latency_ms", "bytes"):
            mine, first = line.get(name), lines[0].get(name)
            if line is not lines[0] and is_number(mine) and is_number(first) and mine > 0 and first > 0:
                line[f"{name}_ratio"] = first / mine
    if is_number(result.get("speedup_vs_eager")):
        lines[-1]["latency_ms_ratio"] = result["speedup_vs_eager"]
    return lines


def _pictures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    asked, result = _part(report, "asked"), _part(report, "result")
    forms = [form for form in report.get("forms") or [] if not form.get("chosen")]
    rows = [_row(line, line["label"], line["kind"]) for line in _compared(report)]
    rows += [_row(form, str(form.get("name", "")), "form") for form in forms]
    if any(row.latency_ms is not None for row in rows):
        yield "latency", latency_svg(rows, _number(asked.get("latency_ms")))
    if any(row.bytes is not None for row in rows):
        limit = _number(asked.get("size_mb"))
        yield "size", size_svg(rows, None if limit is None else 1e6 * limit)
    sets = [("evaluation set", result), *((str(test.get("data", "")), test) for test in report.get("tests") or [])]
    drops = [(name, part["drop"], _pair(part.get("drop_ci95"))) for name, part in sets if is_number(part.get("drop"))]
    known = [(name, drop, interval) for name, drop, interval in drops if interval]
    if known:
        yield "drop", drop_svg(known, _number(asked.get("max_drop")))
    if report.get("blueprint") and report.get("teacher_blueprint"):
        before, after = (Blueprint.from_dict(report[name]) for name in ("teacher_blueprint", "blueprint"))
        yield "blueprint", blueprint_svg(before, after, report.get("kept_layers"))


def _row(figures: Mapping[str, Any], name: str, kind: Any) -> Row:
    latency, weight, quality = (_number(figures.get(key)) for key in ("latency_ms", "bytes", "quality"))
    return Row(name, kind, latency, weight, quality, _pair(figures.get("quality_ci95")))


def _stored(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Matrices that are stored in equally many bits, a line each, the fewest bits first."""
    found: dict[int, list[tuple[str, int]]] = {}
    for name, part in _part(_part(report, "stored"), "bits").items():
        found.setdefault(part["bits"], []).append((name.removeprefix("encoder.").removesuffix(".weight"), part["entries"]))
    return [
        {"bits": bits, "names": _layers([name for name, _ in parts]), "entries": sum(entries for _, entries in parts)}
        for bits, parts in sorted(found.items())
    ]


def _layers(names: list[str]) -> str:
    """Names with the layers' numbers gathered: `attention.query (0 1 2)`."""
    gathered: dict[str, list[str]] = {}
    for name in names:
        layer, _, rest = name.removeprefix("layers.").partition(".")
        inside = name.startswith("layers.")
        gathered.setdefault(rest if inside else name, []).extend([layer] if inside else [])
    return ", ".join(f"{name} ({' '.join(layers)})" if layers else name for name, layers in gathered.items())


def _flipped(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The texts whose answer changed, those that became wrong first."""
    examples = _part(report, "flipped").get("examples") or []
    lines = [{**example, "worse": example.get("gold") == example.get("teacher")} for example in examples]
    return sorted(lines, key=lambda line: not line["worse"])


# -- figures; what is no number prints as a dash -----------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        points=lambda value: f"{value:.1f}".replace("-", "−") if is_number(value) else "–",
        figure=_figure,
        count=lambda value: count(value) if is_number(value) else "–",
        size=lambda value: size(value) if is_number(value) else "–",
        interval=lambda value: _interval(_pair(value)),
        words=_words,
        bound=_bound,
    )
    return environment


def _part(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    return report.get(name) or {}


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value)):
        return float(value[0]), float(value[1])
    return None


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _interval(pair: tuple[float, float] | None) -> str:
    return f"{pair[0]:.1f} … {pair[1]:.1f}".replace("-", "−") if pair else ""


def _figure(value: Any) -> str:
    """Three significant digits; whole numbers in full; what is tiny with an exponent."""
    if not is_number(value):
        return str(value) if isinstance(value, (str, bool)) else "–"
    if value == int(value):
        return f"{value:,.0f}".replace("-", "−")
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return significant(value).rstrip("0").rstrip(".") if abs(value) < 100 else significant(value)


def _words(value: Any) -> str:
    """A text, a pair of texts, a list of labels or a mapping as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items() if part not in (None, ""))
    if isinstance(value, (list, tuple)):
        return " / ".join(map(_words, value))
    return "–" if value is None else str(value)

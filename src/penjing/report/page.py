"""`report.json` as one HTML page that opens offline, and as the model card of the compressed model's folder.

Both are pure functions of the report's object. Texts in it are data and are escaped; what a report lacks, its page
leaves out. Qualities are points (0-100).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from penjing.blueprint import Blueprint
from penjing.report.drawing import (
    Bin,
    Row,
    blueprint_svg,
    count,
    drop_svg,
    is_number,
    latency_svg,
    reliability_svg,
    significant,
    size,
    size_svg,
)

_ASKED = {
    "speedup": "at least {}× as fast as PyTorch eager",
    "latency_ms": "at most {} ms",
    "size_mb": "at most {} MB",
    "max_drop": "lose at most {} points",
    "confidence": "with confidence {}",
    "minutes": "with at most {} minutes of training",
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
_GATES = {
    "speedup": "speed-up",
    "latency_ms": "latency in ms",
    "size_mb": "size in MB",
    "drop": "points lost",
    "drop_at_most": "points that may have been lost (the interval’s end)",
    "macs": "part of the multiply-accumulates",
}
"""Gates in words; the others are called in words already."""
_LOWER = ("speedup", "sparsity", "steady machine")
"""Gates whose limit is a lower bound."""
_UNTOUCHED = {"baseline", "quantize", "export", "choose", "verify"}
"""The steps of a run that changes no weight."""
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
            forms=_forms(report),
            flipped=_flipped(report),
            stored=_stored(report),
            confidence=_confidence(report),
            untouched=untouched(report),
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
        .render(
            report=report,
            verdict=verdict(report),
            auto="" if plain else _AUTO.get(head, "AutoModel"),
            targets=_targets(report),
            confidence=_confidence(report),
        )
    )


def verdict(report: Mapping[str, Any]) -> str:
    """How much faster (where the machine was quiet enough to say), what was lost and at most, how much smaller; before it every gate that
    decides and failed."""
    found = _sentence(list(_claims(report)))
    if report.get("met") is not False:
        return found
    missed = [_missed(gate) for gate in report.get("gates") or [] if gate.get("decides") and not gate.get("passed")]
    return f"{_sentence(missed or ['the budget was not met'])} The best found: {found[:1].lower()}{found[1:]}"


# -- sentences -------------------------------------------------------------------------------------------------


def _claims(report: Mapping[str, Any]) -> Iterator[str]:
    result, teacher = _part(report, "result"), _part(report, "teacher")
    own: Mapping[str, Any] = next((row for row in report.get("shapes") or [] if row.get("own")), {})
    if own.get("steady") and is_number(own.get("speedup")) and own["speedup"] > 0:
        yield f"{_times(own['speedup'], 'faster', 'slower')} than the uncut model in the same form"
    speedup, disturbance = result.get("speedup_vs_eager"), result.get("disturbance")
    if result.get("steady") is False:
        yield "the machine was too busy to say how much faster" + (f" ({disturbance})" if disturbance else "")
    elif is_number(speedup) and speedup > 0:
        yield f"{_times(speedup, 'faster', 'slower')} than eager PyTorch"
    if is_number(result.get("drop")):
        yield _lost(result, _confidence(report))
    before, after = teacher.get("bytes"), result.get("bytes")
    if is_number(before) and is_number(after) and before > 0 and after > 0:
        yield _times(before / after, "smaller", "larger")


def _lost(result: Mapping[str, Any], confidence: str) -> str:
    """Points lost against the teacher, the most that may have been lost, and p: 0.5 points lost, 1.6 at most (95 %; p = 0.12)."""
    drop, most, p = round(result["drop"], 1), result.get("drop_at_most"), result.get("p_value")
    said = f"{abs(drop):.1f} points {'lost' if drop > 0 else 'gained'}" if drop else "no quality lost"
    if not is_number(most):
        return said
    if round(most, 1) < 0:
        end = f"{-most:.1f} at least"
    else:
        end = f"{max(most, 0.0):.1f} {'at most' if drop > 0 else 'lost at most' if drop else 'points at most'}"
    return f"{said}, {end} ({confidence}{f'; p = {_figure(p)}' if is_number(p) else ''})"


def _confidence(report: Mapping[str, Any]) -> str:
    """Of the interval whose end is `drop_at_most`, in percent."""
    asked = _part(report, "asked").get("confidence")
    return f"{100 * (asked if is_number(asked) else 0.95):g} %"


def _sentence(parts: list[str]) -> str:
    return f"{_upper(', '.join(parts) or 'nothing was measured')}."


def _upper(text: str) -> str:
    """With a large first letter; the others as they are."""
    return text[:1].upper() + text[1:]


def _times(ratio: float, more: str, less: str) -> str:
    word, ratio = (more, ratio) if ratio >= 1 else (less, 1 / ratio)
    return f"{significant(ratio, 2 if ratio < 10 else 3)}× {word}"


def _missed(gate: Mapping[str, Any]) -> str:
    value = _figure(gate["value"]) if is_number(gate.get("value")) else "not measured"
    return f"{_gate(gate)}: {value}, {_bound(gate)} {'was asked' if gate.get('asked') else 'is allowed'}"


def _gate(gate: Mapping[str, Any]) -> str:
    name = str(gate.get("name"))
    return _GATES.get(name, name)


def _bound(gate: Mapping[str, Any]) -> str:
    """The gate's limit with its direction."""
    return f"{'at least' if gate.get('name') in _LOWER else 'at most'} {_figure(gate.get('limit'))}"


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
    """The teacher in each engine, then the result: a line each, with ratios to the first, of latencies only where both are steady."""
    baselines = _part(report, "baselines") or ({"teacher": report["teacher"]} if report.get("teacher") else {})
    lines = [{**(row or {}), "label": _label(name, row or {}), "kind": "baseline"} for name, row in baselines.items()]
    result = _part(report, "result")
    if result:
        lines.append({**result, "label": f"Result, {result['form']}" if result.get("form") else "Result", "kind": "result"})
    for number, line in enumerate(lines):
        first = lines[0] if number else {}
        line["bytes_ratio"] = _ratio(first.get("bytes"), line.get("bytes"))
        line["latency_ms_ratio"] = None
        if line["kind"] == "result" and line.get("steady"):  # measured again alone, against the first line
            line["latency_ms_ratio"] = _number(line.get("speedup_vs_eager"))
        elif line.get("steady") and first.get("steady"):
            line["latency_ms_ratio"] = _ratio(first.get("latency_ms"), line.get("latency_ms"))
    return lines


def _label(name: str, figures: Mapping[str, Any]) -> str:
    form = str(figures.get("form") or name)
    return form if "teacher" in form else f"{form}, teacher"


def _ratio(first: Any, mine: Any) -> float | None:
    return first / mine if is_number(first) and is_number(mine) and first > 0 and mine > 0 else None


def untouched(report: Mapping[str, Any]) -> bool:
    """Whether neither budget nor recipe asked anything: the model is rounded and exported as it is."""
    scheme = _part(_part(_part(report, "asked"), "recipe"), "quantize").get("scheme", "any")
    return scheme == "any" and {step.get("name") for step in report.get("steps") or []} <= _UNTOUCHED


def _forms(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every form that was timed, with why it is shipped or not."""
    return [{**form, "outcome": _outcome(form, report.get("gates") or [])} for form in report.get("forms") or []]


def _outcome(form: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> str:
    """shipped, slower, or the gates of this form and of its engine that failed."""
    names = [str(gate.get("name")).rpartition(", ") for gate in gates if not gate.get("passed")]
    failed = [said for said, _, of in names if said and of in (form.get("name"), form.get("engine"))]
    said = ["shipped"] if form.get("chosen") else ["slower"] if form.get("fit") else []
    return ", ".join([*said, *(f"failed: {name}" for name in failed)]) or "not fit"


def _pictures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    asked, result = _part(report, "asked"), _part(report, "result")
    forms = [form for form in report.get("forms") or [] if not form.get("chosen")]
    rows = [_row(line, _short(line["label"]), line["kind"]) for line in _compared(report)]
    rows += [_row({**form, "quality": None, "quality_ci95": None}, str(form.get("name", "")), "form") for form in forms]  # none is known
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
    scores = _part(report, "scores")
    before, after = (_bins(_part(scores, name)) for name in ("before", "after"))
    if before:
        yield "reliability", reliability_svg(before, after if scores.get("temperature") != 1 else ())
    if report.get("blueprint") and report.get("teacher_blueprint"):
        whole, cut = (Blueprint.from_dict(report[name]) for name in ("teacher_blueprint", "blueprint"))
        yield "blueprint", blueprint_svg(whole, cut, report.get("kept_layers"))


def _row(figures: Mapping[str, Any], name: str, kind: Any) -> Row:
    latency, weight, quality = (_number(figures.get(key)) for key in ("latency_ms", "bytes", "quality"))
    return Row(name, kind, latency, weight, quality, _pair(figures.get("quality_ci95")), figures.get("steady") is not False)


def _short(label: str) -> str:
    """For a picture: without how the teacher's int8 was made."""
    form, _, whose = label.partition(" by " if " by " in label else " of ")
    return f"{form}, teacher" if whose else label


def _bins(scores: Mapping[str, Any]) -> list[Bin]:
    return [Bin(row["confidence"], row["accuracy"], row["examples"]) for row in scores.get("reliability") or []]


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
        megabytes=lambda value: size(1e6 * value) if is_number(value) else "–",
        interval=lambda value: _interval(_pair(value)),
        words=_words,
        upper_first=_upper,
        gate=_gate,
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

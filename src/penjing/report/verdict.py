"""A report in sentences: the verdict, what was asked, and the figures in them. Qualities are points (0-100)."""

from collections.abc import Iterator, Mapping
from typing import Any

from penjing.report.drawing import is_number, significant
from penjing.report.record import Gate, Report
from penjing.tasks.judging import PairedQuality

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
}
"""Settings of the step "prune"."""
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
CONFIDENCE = 0.95


def verdict(report: Report) -> str:
    """How much faster (where the machine was quiet enough to say), what was lost and at most, how much smaller; before it every gate that
    decides and failed."""
    outcome = _sentence(list(_claims(report)))
    if report.met is not False:
        return outcome
    missed = [_missed(gate) for gate in report.gates if gate.decides and not gate.passed]
    return f"{_sentence(missed or ['the budget was not met'])} The best found: {outcome[:1].lower()}{outcome[1:]}"


def targets(report: Report) -> list[str]:
    """The budget that was asked for, and what was to be cut, in words."""
    asked = report.asked
    if asked is None:
        return []
    lines = _filled(_ASKED, vars(asked))
    gradual = asked.step("gradual")
    lines += _filled(_CUT, {"macs": gradual["part"]} if gradual else asked.step("prune"))
    if part := asked.step("vocabulary").get("part"):
        lines.append(f"keep {figure(part)} of the tokens")
    elif any(name == "vocabulary" for name, _ in asked.steps):
        lines.append("keep the tokens that the texts produce")
    sparse = asked.step("sparsify")
    return [*lines, f"set {figure(sparse['sparsity'])} of the weights to zero"] if sparse else lines


def untouched(report: Report) -> bool:
    """Whether neither budget nor recipe asked anything: the model is rounded and exported as it is."""
    scheme = report.asked.step("quantize").get("scheme", "any") if report.asked else "any"
    return scheme == "any" and {step.name for step in report.steps} <= _UNTOUCHED


def confidence(report: Report) -> str:
    """The confidence of the interval whose end is `drop_at_most`, in percent."""
    asked = report.asked.confidence if report.asked else None
    return f"{100 * (CONFIDENCE if asked is None else asked):g} %"


def gate_in_words(gate: Gate) -> str:
    """The gate's name."""
    return _GATES.get(gate.name, gate.name)


def bound(gate: Gate) -> str:
    """The gate's limit with its direction."""
    return f"{'at least' if gate.name in _LOWER else 'at most'} {figure(gate.limit)}"


# -- parts of sentences ----------------------------------------------------------------------------------------


def _claims(report: Report) -> Iterator[str]:
    result, teacher = report.result, report.teacher.baseline
    own = next((row for row in report.shapes if row.own), None)
    if own is not None and own.steady and is_number(own.speedup) and own.speedup > 0:
        yield f"{_times(own.speedup, 'faster', 'slower')} than the uncut model in the same form"
    speedup = result.speedup_vs_eager
    if not result.figures.steady:
        yield "the machine was too busy to say how much faster" + (f" ({result.disturbance})" if result.disturbance else "")
    elif is_number(speedup) and speedup > 0:
        yield f"{_times(speedup, 'faster', 'slower')} than eager PyTorch"
    yield _lost(result.judged, confidence(report))
    if teacher.bytes > 0 and result.bytes > 0:
        yield _times(teacher.bytes / result.bytes, "smaller", "larger")


def _lost(judged: PairedQuality, confidence: str) -> str:
    """Points lost against the teacher, the most that may have been lost, and p: 0.5 points lost, 1.6 at most (95 %; p = 0.12)."""
    drop, most = round(judged.drop, 1), judged.drop_at_most
    lost = f"{abs(drop):.1f} points {'lost' if drop > 0 else 'gained'}" if drop else "no quality lost"
    if round(most, 1) < 0:
        end = f"{-most:.1f} at least"
    else:
        end = f"{max(most, 0.0):.1f} {'at most' if drop > 0 else 'lost at most' if drop else 'points at most'}"
    return f"{lost}, {end} ({confidence}; p = {figure(judged.p_value)})"


def _sentence(parts: list[str]) -> str:
    return f"{upper_first(', '.join(parts))}."


def upper_first(text: str) -> str:
    """The text with a large first letter; the others as they are."""
    return text[:1].upper() + text[1:]


def _times(ratio: float, more: str, less: str) -> str:
    word, ratio = (more, ratio) if ratio >= 1 else (less, 1 / ratio)
    return f"{significant(ratio, 2 if ratio < 10 else 3)}× {word}"


def _missed(gate: Gate) -> str:
    value = figure(gate.value) if is_number(gate.value) else "not measured"
    return f"{gate_in_words(gate)}: {value}, {bound(gate)} {'was asked' if gate.asked else 'is allowed'}"


def _filled(table: Mapping[str, str], given: Mapping[str, Any]) -> list[str]:
    return [words.format(figure(given[name])) for name, words in table.items() if is_number(given.get(name))]


# -- figures; what is no number prints as a dash -----------------------------------------------------------------


def figure(value: object) -> str:
    """Three significant digits; whole numbers in full; what is tiny with an exponent."""
    if not is_number(value):
        return str(value) if isinstance(value, (str, bool)) else "–"
    if value == int(value):
        return f"{value:,.0f}".replace("-", "−")
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return significant(value).rstrip("0").rstrip(".") if abs(value) < 100 else significant(value)


def words(value: object) -> str:
    """A text, a pair of texts, a list of labels or a mapping as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(part)}" for name, part in value.items() if part not in (None, ""))
    if isinstance(value, (list, tuple)):
        return " / ".join(map(words, value))
    return "–" if value is None else str(value)


def interval(pair: tuple[float, float]) -> str:
    """The ends of an interval."""
    return f"{pair[0]:.1f} … {pair[1]:.1f}".replace("-", "−") if all(map(is_number, pair)) else ""

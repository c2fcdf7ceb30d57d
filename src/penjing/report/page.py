"""A report as one HTML page that opens offline, and as the model card of the compressed model's folder.

Both are pure functions of the report's record. Texts in it are data and are escaped. Qualities are points (0-100).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from penjing.blueprint import HEADS
from penjing.engines.clock.measurement import Figures
from penjing.files.records import to_json
from penjing.report.drawing import (
    Row,
    blueprint_svg,
    count,
    drop_svg,
    is_number,
    latency_svg,
    reliability_svg,
    size,
    size_svg,
)
from penjing.report.record import FormRow, Gate, Report, Stored
from penjing.report.verdict import bound, confidence, figure, gate_in_words, interval, targets, untouched, upper_first, verdict, words
from penjing.tasks.judging import FlippedExample, PairedQuality, Quality

_AUTO = {name: head.auto_class for name, head in HEADS.items()}
"""The class of transformers that loads a model, by its head."""
_ANY_HEAD = "AutoModel"
PICTURES = ("latency", "size", "drop", "reliability", "blueprint")
"""The page's pictures; one that is not drawn has no section."""


def page(report: Report) -> str:
    """The whole page: no script, no font, no link leaves it."""
    asked = report.asked
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            report=report,
            asked=to_json(asked) if asked else {},
            machine=to_json(report.machine),
            versions=dict(report.versions),
            recipe=asked.steps if asked else [],
            verdict=verdict(report),
            targets=targets(report),
            compared=_compared(report),
            pictures=dict.fromkeys(PICTURES, "") | {name: Markup(svg) for name, svg in _pictures(report)},  # texts in them are escaped
            forms=[(form, _outcome(form, report.gates)) for form in report.forms],
            flipped=_flipped(report),
            stored=_stored(report.stored) if report.stored else [],
            confidence=confidence(report),
            untouched=untouched(report),
        )
    )


def model_card(report: Report) -> str:
    """README.md for the folder of the compressed model: what it is, its figures, how to load it."""
    return (
        templates()
        .get_template("model_card.md.j2")
        .render(
            report=report,
            verdict=verdict(report),
            auto=_auto_class(report),
            targets=targets(report),
            confidence=confidence(report),
        )
    )


def _auto_class(report: Report) -> str:
    """The class of transformers that loads the model; "" where there is none."""
    if report.student is not None:
        return _AUTO.get(report.student.head, _ANY_HEAD) if report.student.transformers else ""
    return report.blueprint.head.auto_class if report.blueprint else _ANY_HEAD


# -- the page's tables -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of the table of results: the teacher in one form, or the result; the ratios are to the first line."""

    label: str
    kind: Literal["baseline", "result"]
    judged: Quality | PairedQuality
    figures: Figures
    bytes: int
    bytes_ratio: float | None = None
    latency_ms_ratio: float | None = None


def _compared(report: Report) -> list[Line]:
    """The teacher in each engine, then the result: a line each, with ratios to the first, of latencies only where both are steady."""
    first, *others = report.baselines.values()
    lines = [Line(_label(first.form), "baseline", first.quality, first.figures, first.bytes)]
    for other in others:
        both = first.figures.steady and other.figures.steady
        faster = _ratio(first.figures.latency_ms, other.figures.latency_ms) if both else None
        lines.append(
            Line(_label(other.form), "baseline", other.quality, other.figures, other.bytes, _ratio(first.bytes, other.bytes), faster)
        )
    result = report.result  # its latency was measured again alone, against the first line
    faster = _number(result.speedup_vs_eager) if result.figures.steady else None
    smaller = _ratio(first.bytes, result.bytes)
    return [*lines, Line(f"Result, {result.form}", "result", result.judged, result.figures, result.bytes, smaller, faster)]


def _label(form: str) -> str:
    return form if "teacher" in form else f"{form}, teacher"


def _ratio(first: float, other: float) -> float | None:
    return first / other if is_number(first) and is_number(other) and first > 0 and other > 0 else None


def _outcome(form: FormRow, gates: Sequence[Gate]) -> str:
    """Why a form is shipped or not: shipped, slower, or the gates of this form and of its engine that failed."""
    names = [gate.name.rpartition(", ") for gate in gates if not gate.passed]
    failed = [check for check, _, of in names if check and of in (form.name, form.engine)]
    reasons = ["shipped"] if form.chosen else ["slower"] if form.fit else []
    return ", ".join([*reasons, *(f"failed: {name}" for name in failed)]) or "not fit"


@dataclass(frozen=True)
class Matrices:
    """A line of the table of what is stored: names, bits of an entry, entries."""

    names: str
    bits: int
    entries: int


def _stored(stored: Stored) -> list[Matrices]:
    """Matrices that are stored in equally many bits, a line each, the fewest bits first."""
    by_bits: dict[int, list[tuple[str, int]]] = {}
    for name, matrix in stored.bits.items():
        by_bits.setdefault(matrix.bits, []).append((name.removeprefix("encoder.").removesuffix(".weight"), matrix.entries))
    return [
        Matrices(_layers([name for name, _ in parts]), bits, sum(entries for _, entries in parts))
        for bits, parts in sorted(by_bits.items())
    ]


def _layers(names: list[str]) -> str:
    """Names with the layers' numbers gathered: `attention.query (0 1 2)`."""
    gathered: dict[str, list[str]] = {}
    for name in names:
        layer, _, rest = name.removeprefix("layers.").partition(".")
        inside = name.startswith("layers.")
        gathered.setdefault(rest if inside else name, []).extend([layer] if inside else [])
    return ", ".join(f"{name} ({' '.join(layers)})" if layers else name for name, layers in gathered.items())


def _flipped(report: Report) -> list[tuple[FlippedExample, bool]]:
    """The texts whose answer changed, and whether it became wrong, those first."""
    lines = [(example, example.gold == example.teacher) for example in report.flipped.examples]
    return sorted(lines, key=lambda line: not line[1])


# -- the page's pictures ---------------------------------------------------------------------------------------


def _pictures(report: Report) -> Iterator[tuple[str, str]]:
    asked = report.asked
    rows = [_row(_short(line.label), line.kind, line.figures, line.bytes, line.judged) for line in _compared(report)]
    rows += [_row(form.name, "form", form.figures, form.bytes) for form in report.forms if not form.chosen]
    if any(row.latency_ms is not None for row in rows):
        yield "latency", latency_svg(rows, asked.latency_ms if asked else None)
    limit = asked.size_mb if asked else None
    yield "size", size_svg(rows, None if limit is None else 1e6 * limit)
    drops = [(name, judged.drop, _pair(judged.drop_ci95)) for name, judged in _judged(report) if is_number(judged.drop)]
    if known := [(name, drop, ends) for name, drop, ends in drops if ends]:
        yield "drop", drop_svg(known, asked.max_drop if asked else None)
    scores = report.scores
    if before := scores.before.reliability:
        yield "reliability", reliability_svg(before, scores.after.reliability if scores.temperature != 1 else ())
    if report.blueprint is not None:
        yield "blueprint", blueprint_svg(report.teacher_blueprint, report.blueprint, report.kept_layers)


def _judged(report: Report) -> list[tuple[str, PairedQuality]]:
    """The sets of data that the result was held against the teacher on."""
    return [("evaluation set", report.result.judged), *((test.data, test.judged) for test in report.tests)]


def _row(
    name: str, kind: Literal["baseline", "form", "result"], figures: Figures, weight: float, judged: Quality | PairedQuality | None = None
) -> Row:  # fmt: skip
    quality = _number(judged.quality) if judged else None
    return Row(name, kind, _number(figures.latency_ms), weight, quality, _pair(judged.quality_ci95) if judged else None, figures.steady)


def _short(label: str) -> str:
    """For a picture: without how the teacher's int8 was made."""
    form, _, whose = label.partition(" by " if " by " in label else " of ")
    return f"{form}, teacher" if whose else label


def _number(value: float | None) -> float | None:
    return float(value) if is_number(value) else None


def _pair(ends: tuple[float, float]) -> tuple[float, float] | None:
    return ends if all(map(is_number, ends)) else None


# -- the templates ---------------------------------------------------------------------------------------------


@cache
def templates() -> Environment:
    """The templates' environment: a name that no record has is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        points=lambda value: f"{value:.1f}".replace("-", "−") if is_number(value) else "–",
        figure=figure,
        count=lambda value: count(value) if is_number(value) else "–",
        size=lambda value: size(value) if is_number(value) else "–",
        megabytes=lambda value: size(1e6 * value) if is_number(value) else "–",
        interval=interval,
        words=words,
        upper_first=upper_first,
        gate=gate_in_words,
        bound=bound,
    )
    return environment

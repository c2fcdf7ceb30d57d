"""Pictures of a run: the encoder before and after, latency, size, lost quality, reliability.

The SVGs are written by hand. Horizontal places are percentages and type keeps its size, so that one drawing
reads at 400 px, on a wide screen and on paper; colours are the page's custom properties, with fallbacks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from typing import Literal, TypeGuard

from penjing.blueprint import Blueprint, Layer
from penjing.maths.scores import ReliabilityBin

_STYLE = (
    "<style>"
    ".pj{display:block;width:100%;overflow:visible;font-family:var(--sans,system-ui,sans-serif);font-size:12.5px}"
    ".pj text{fill:var(--ink,#17201c);font-variant-numeric:tabular-nums}.pj .quiet{fill:var(--quiet,#56635c)}"
    ".pj .strong{font-weight:600}.pj .small{font-size:11px}"
    ".pj .result{fill:var(--kept,#1c6b4e)}.pj .baseline{fill:var(--bar,#84918a)}.pj .form{fill:var(--faint,#c3ccc7)}"
    ".pj .gone{fill:none;stroke:var(--gone,#98a59e);stroke-dasharray:2 2}"
    ".pj line{stroke:var(--bar,#84918a);stroke-width:1}.pj .limit{stroke:var(--limit,#b0341f);stroke-dasharray:4 3}"
    ".pj line.result{stroke:var(--kept,#1c6b4e);stroke-width:2}.pj line.baseline,.pj line.form{stroke-width:2}"
    "</style>"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured form of a model: a line of a chart. Milliseconds, bytes, points (0-100)."""

    name: str
    kind: Literal["baseline", "form", "result"]
    latency_ms: float | None = None
    bytes: float | None = None
    quality: float | None = None
    interval: tuple[float, float] | None = None
    steady: bool = True


# -- numbers ---------------------------------------------------------------------------------------------------


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` can be drawn or printed as a figure: a finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent, thousands grouped: 0.837, 6.10, 1,250."""
    exponent = int(f"{value:.{digits - 1}e}".rpartition("e")[2])
    places = digits - 1 - exponent
    return f"{value:,.{max(places, 0)}f}".replace("-", "−")


def count(value: float) -> str:
    """A large count in short: 22.7 M, 1.81 G."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:
            return f"{significant(value / scale)} {letter}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes in decimal units: 91.0 MB."""
    return f"{count(value)}B" if value >= 999.5 else f"{value:.0f} B"


# -- charts ----------------------------------------------------------------------------------------------------


def latency_svg(rows: Sequence[Row], limit: float | None = None) -> str:
    """Bars of latency from zero; beside them each form's quality with its 95 % interval. `limit` in ms is ruled in."""
    drawn = [row if row.steady else replace(row, name=f"{row.name} (not steady)") for row in rows if is_number(row.latency_ms)]
    values = [float(row.latency_ms or 0) for row in drawn]
    words = [f"{significant(value)} ms" for value in values]
    described = "; ".join(f"{row.name}: {word}{_said(row)}" for row, word in zip(drawn, words, strict=True))
    bound = None if limit is None else (limit, f"at most {significant(limit)} ms")
    split = any(is_number(row.quality) for row in drawn)
    body = list(_bars(drawn, values, words, bound, 60 if split else 100))
    if split:
        body += _whiskers(drawn)
    return _svg("latency", "Latency and quality of every measured form", described, 44 + 38 * len(drawn), body)


def size_svg(rows: Sequence[Row], limit: float | None = None) -> str:
    """Bars of the bytes that deployment needs. `limit` in bytes is ruled in."""
    drawn = [row for row in rows if is_number(row.bytes)]
    values = [float(row.bytes or 0) for row in drawn]
    words = [size(value) for value in values]
    described = "; ".join(f"{row.name}: {word}" for row, word in zip(drawn, words, strict=True))
    bound = None if limit is None else (limit, f"at most {size(limit)}")
    body = _bars(drawn, values, words, bound, 100)
    return _svg("size", "Bytes on disk of every measured form", described, 24 + 38 * len(drawn), body)


def drop_svg(rows: Sequence[tuple[str, float, tuple[float, float]]], limit: float | None = None) -> str:
    """Points lost on each data set, `(name, drop, (low, high))`, with zero and the most that may be lost ruled in."""
    ends = [0.0, *([] if limit is None else [limit]), *(end for _, drop, ci in rows for end in (drop, *ci))]
    low, high = min(ends), max(ends)
    pad = 0.18 * (high - low or 1)
    low, high = low - pad, high + 1.7 * pad  # right of all, the figures
    bottom = 26 + 38 * len(rows)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    body = [
        _line(place(0), 20, place(0), bottom),
        _text(place(0), bottom + 14, "nothing lost", "quiet small", "middle"),
    ]
    if limit is not None:
        body += [_line(place(limit), 14, place(limit), bottom, "limit")]
        body += [_text(place(limit), 9, f"at most {significant(limit, 2)} lost", "quiet small", "middle")]
    for index, (name, drop, (start, end)) in enumerate(rows):
        y = 36 + 38 * index
        body += [_text(0, y, name), _text(100, y, f"{drop:.1f} points".replace("-", "−"), anchor="end")]
        body += [_line(place(start), y + 13, place(end), y + 13, "result")]
        body += [_dot(place(drop), y + 13, "result", 4.5)]
    described = "; ".join(f"{name}: {drop:.1f}, 95 % {ci[0]:.1f} to {ci[1]:.1f}" for name, drop, ci in rows)
    return _svg("drop", "Points lost, with 95 % intervals", described, bottom + 20, body)


def reliability_svg(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin] = ()) -> str:
    """Accuracy over confidence (Guo et al. 2017, figure 1): the scores as they come and at the temperature, and the diagonal that they
    should lie on. A dot's area is its part of the examples."""
    drawn: list[tuple[str, str, Sequence[ReliabilityBin]]] = [("as they come", "baseline", before), ("at the temperature", "result", after)]
    drawn = [each for each in drawn if each[2]]
    low = math.floor(10 * min([0.9, *(each.confidence for _, _, bins in drawn for each in bins)])) / 10
    left, right, top, bottom = 11.0, 97.0, 12.0, 212.0

    def x(confidence: float) -> float:
        return left + (right - left) * (confidence - low) / (1 - low)

    def y(accuracy: float) -> float:
        return round(bottom - (bottom - top) * accuracy, 1)

    body = [_line(left, bottom, right, bottom), _line(x(low), y(low), x(1), y(1), "gone")]
    body += [_text(left - 2, y(tick) + 4, f"{100 * tick:.0f}", "quiet small", "end") for tick in (0.0, 0.5, 1.0)]
    body += [_text(x(tick), bottom + 16, f"{100 * tick:.0f}", "quiet small", "middle") for tick in (low, (1 + low) / 2, 1.0)]
    body += [_text(x(1), bottom + 32, "confidence, %; upwards the accuracy, %", "quiet small", "end")]
    for _, look, bins in drawn:
        most = max(each.examples for each in bins)
        body += [_line(x(a.confidence), y(a.accuracy), x(b.confidence), y(b.accuracy), look) for a, b in pairwise(bins)]
        body += [_dot(x(each.confidence), y(each.accuracy), look, 2 + 6 * math.sqrt(each.examples / most)) for each in bins]
    described = "; ".join(
        f"{name}: " + ", ".join(f"{100 * each.accuracy:.0f} % right at {100 * each.confidence:.0f} % ({each.examples})" for each in bins)
        for name, _, bins in drawn
    )
    return _svg("reliability", "Reliability of the scores", described, bottom + 36, body)


def _bars(
    rows: Sequence[Row], values: Sequence[float], words: Sequence[str], bound: tuple[float, str] | None, width: float
) -> Iterator[str]:
    """Name above, bar below, figure at its tip; the longest bar leaves a quarter of `width` % to its figure."""
    scale = 0.76 * width / max(*values, bound[0] if bound else 0, 1e-9)
    if bound:
        x, bottom = bound[0] * scale, 8 + 38 * len(rows)
        yield _line(x, 4, x, bottom, "limit")
        yield _text(x, bottom + 12, bound[1], "quiet small", "end" if x > 0.5 * width else "start")
    for index, (row, value, word) in enumerate(zip(rows, values, words, strict=True)):
        y, strong = 38 * index, " strong" if row.kind == "result" else ""
        yield _text(0, y + 14, row.name, strong)
        yield f'<rect class="{row.kind}" x="0" y="{y + 20}" width="{value * scale:.2f}%" height="10"/>'
        yield _text(value * scale, y + 29, word, "small" + strong, shift=6)


def _whiskers(rows: Sequence[Row]) -> Iterator[str]:
    """The right third: quality as a dot on its interval; a rule at the first baseline's quality."""
    known = [(38 * i, row, float(row.quality or 0)) for i, row in enumerate(rows) if is_number(row.quality)]
    ends = [end for _, row, quality in known for end in (quality, *(row.interval or ()))]
    low, high = min(ends), max(ends)
    if high == low:
        low, high = low - 1, high + 1

    def place(value: float) -> float:
        return 67 + 32 * (value - low) / (high - low)

    bottom = 8 + 38 * len(rows)
    level = place(known[0][2])
    yield _line(level, 20, level, bottom)
    yield _line(67, bottom, 99, bottom)
    yield _text(67, bottom + 14, f"{low:.1f}", "quiet small", "middle")
    yield _text(99, bottom + 14, f"{high:.1f}", "quiet small", "end")
    yield _text(83, bottom + 28, "quality, points", "quiet small", "middle")
    for y, row, quality in known:
        yield _text(99, y + 14, f"{quality:.1f}", "small strong" if row.kind == "result" else "small", "end")
        if row.interval:
            yield _line(place(row.interval[0]), y + 25, place(row.interval[1]), y + 25, row.kind)
        yield _dot(place(quality), y + 25, row.kind, 4)


def _said(row: Row) -> str:
    return f", quality {row.quality:.1f}" if row.quality is not None else ""


# -- the encoder before and after ------------------------------------------------------------------------------


def blueprint_svg(before: Blueprint, after: Blueprint, kept_layers: Sequence[int] | None = None) -> str:
    """Two trees side by side, to one scale: embeddings are the pot, the hidden width is the trunk, each layer is
    a branch with its heads to the left and its neurons to the right. What was cut away is dashed.

    `kept_layers` are the teacher's layers that the result's came from; without them, the first ones.
    How many heads are left is drawn, not which.
    """
    if kept_layers is None or len(kept_layers) != len(after.layers):
        kept_layers = range(len(after.layers))
    grown = dict(zip(kept_layers, after.layers, strict=True))
    depth = max(len(before.layers), *(index + 1 for index in grown), 1) if grown else max(len(before.layers), 1)
    scale = _Scale(before, after, depth)
    teacher = dict(enumerate(before.layers))
    body = [f'<svg x="0" width="47%" overflow="visible">{scale.tree("Teacher", before, before, teacher, teacher)}</svg>']
    body += [f'<svg x="53%" width="47%" overflow="visible">{scale.tree("Result", after, before, grown, teacher)}</svg>']
    described = f"Before: {_sentence(before)}. After: {_sentence(after)}. Layers kept: {_list(kept_layers)}."
    return _svg("blueprint", "The encoder before and after", described, scale.height, body)


class _Scale:
    """One scale for both trees: places in % of a tree's width, heights in px."""

    left, trunk, right, tip, pitch, top, pot = 9.0, 39.0, 42.0, 72.0, 20, 62, 44

    def __init__(self, before: Blueprint, after: Blueprint, depth: int) -> None:
        layers = [*before.layers, *after.layers]
        self.heads = max([layer.heads for layer in layers] + [1])
        self.neurons = max([layer.neurons for layer in layers] + [1])
        self.hidden = max(before.hidden, after.hidden)
        self.vocabulary = max(before.vocabulary, after.vocabulary)
        self.embedding = max(before.embedding, after.embedding)
        self.depth = depth
        self.ground = self.top + self.pitch * depth + 6
        self.height = self.ground + self.pot + 40

    def tree(self, name: str, own: Blueprint, full: Blueprint, grown: Mapping[int, Layer], teacher: Mapping[int, Layer]) -> str:
        """The tree `own`, over the dashed outline of `full`."""
        kind = "result" if name == "Result" else "baseline"
        parts = [_text(0, 12, name, "strong"), _text(0, 28, _short(own), "quiet small")]
        parts += [_text(self.trunk, 50, "heads", "quiet small", "end"), _text(self.right, 50, "neurons", "quiet small")]
        parts += self._trunk(own, full, kind)
        for index in range(self.depth):
            y = self.top + self.pitch * (self.depth - 1 - index)
            layer, cut = grown.get(index), teacher.get(index, Layer(0, 0))
            parts += self._branch(y, layer or Layer(0, 0), cut, kind)
            said = f"{layer.heads} · {layer.neurons}" if layer else "cut" if index in teacher else ""
            parts += [_text(0, y + 10, str(index), "quiet small"), _text(100, y + 10, said, "quiet small", "end")]
        return "".join(parts + self._pot(own, full, kind))

    def _branch(self, y: int, layer: Layer, teacher: Layer, kind: str) -> Iterator[str]:
        step = (self.trunk - self.left) / self.heads
        for head in range(max(layer.heads, teacher.heads)):
            yield _box(self.trunk - (head + 1) * step, y, 0.76 * step, 11, kind if head < layer.heads else "gone")
        unit = (self.tip - self.right) / self.neurons
        yield _box(self.right, y, layer.neurons * unit, 11, kind)
        yield _box(self.right + layer.neurons * unit, y, (teacher.neurons - layer.neurons) * unit, 11, "gone")

    def _trunk(self, own: Blueprint, full: Blueprint, kind: str) -> Iterator[str]:
        centre = (self.trunk + self.right) / 2 - 0.25
        for hidden, look in ((full.hidden, "gone"), (own.hidden, kind)):
            width = 1.8 * hidden / self.hidden
            if look != "gone" or full.hidden > own.hidden:
                yield _box(centre - width / 2, self.top - 5, width, self.ground - self.top + 5, look)

    def _pot(self, own: Blueprint, full: Blueprint, kind: str) -> list[str]:
        """The embedding table: wide as the vocabulary, tall as a token's vector; a rim and two feet."""
        centre, span = (self.trunk + self.right) / 2 - 0.25, self.tip - self.left
        wide, tall = span * own.vocabulary / self.vocabulary, max(self.pot * own.embedding / self.embedding, 2)
        parts = []
        if full.vocabulary > own.vocabulary or full.embedding > own.embedding:
            outline = span * full.vocabulary / self.vocabulary
            parts += [_box(centre - outline / 2, self.ground, outline, self.pot * full.embedding / self.embedding, "gone")]
        parts += [_box(centre - wide / 2, self.ground, wide, tall, kind)]
        for foot in (-0.36, 0.28):
            parts += [_box(centre + foot * wide, self.ground + tall, 0.08 * wide, 4, kind)]
        parts += [_text(0, self.height - 16, f"{own.vocabulary:,} tokens × {own.embedding}", "quiet small")]
        return [*parts, _text(0, self.height - 1, f"hidden width {own.hidden}", "quiet small")]


def _short(blueprint: Blueprint) -> str:
    return f"{len(blueprint.layers)} layers, {count(blueprint.parameters)} parameters"


def _sentence(blueprint: Blueprint) -> str:
    layers = ", ".join(f"{layer.heads} heads and {layer.neurons} neurons" for layer in blueprint.layers)
    return f"{_short(blueprint)}, {blueprint.hidden} wide, {blueprint.vocabulary} tokens; layers of {layers or 'nothing'}"


def _list(items: Sequence[int]) -> str:
    return ", ".join(map(str, items)) or "none"


# -- SVG pieces: x and width in %, y and height in px ------------------------------------------------------------


def _svg(name: str, title: str, description: str, height: float, body: Sequence[str] | Iterator[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pj" role="img" width="100%" height="{height:.0f}" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{_STYLE}{"".join(body)}</svg>'
    )


def _text(x: float, y: float, words: str, look: str = "", anchor: str = "start", shift: int = 0) -> str:
    moved = f' dx="{shift}"' if shift else ""
    return f'<text x="{x:.2f}%" y="{y}" class="{look.strip()}" text-anchor="{anchor}"{moved}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, look: str = "") -> str:
    return f'<line class="{look}" x1="{x1:.2f}%" y1="{y1}" x2="{x2:.2f}%" y2="{y2}"/>'


def _dot(x: float, y: float, look: str, radius: float) -> str:
    return f'<circle class="{look}" cx="{x:.2f}%" cy="{y}" r="{radius:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, look: str) -> str:
    if width <= 0 or height <= 0:
        return ""
    return f'<rect class="{look}" x="{x:.2f}%" y="{y:.1f}" width="{width:.2f}%" height="{height:.1f}"/>'

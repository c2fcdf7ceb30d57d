"""Summaries of a report in lines of text, for the commands that write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penjing.engines.clock.measurement import Figures
    from penjing.job.cascading import Cascaded
    from penjing.report.record import Report, ShapeRow, Stored


CI95 = "95 %"
"""The confidence of the intervals in a report."""

# -- a report of each command ----------------------------------------------------------------------------------


def compressed(report: Report, out: Path) -> str:
    """The summary of `compress`."""
    from penjing.report.verdict import untouched

    lines = [f"{faster(report)}, {smaller(report)}", lost(report), scores(report), places(out)]
    if report.met is None:
        nothing = "nothing was asked, so nothing was cut: give --speedup, --latency-ms, --size-mb or --max-drop"
        lines.insert(0, nothing if untouched(report) else "no limit was asked")
    return "\n".join(lines)


def distilled(report: Report, out: Path) -> str:
    """The summary of `distill` and `replace`: quality, size and time against the teacher's."""
    result = report.result
    teacher = report.teacher
    lines = [
        lost(report),
        f"{teacher.parameters / 1e6:.1f} -> {result.parameters / 1e6:.1f} million parameters, {smaller(report)}",
        f"{faster(report)}; {_throughput(teacher.baseline.figures)} -> {_throughput(result.figures)} texts/s",
        places(out),
    ]
    return "\n".join(lines)


def pruned(report: Report, out: Path) -> str:
    """The summary of `prune`: cuts, loss, and speed-ups over the uncut model in the same form and over eager PyTorch."""
    parameters = report.result.parameters / report.teacher.parameters
    macs = "" if report.result.macs is None else f"{report.result.macs:.2f} of the multiply-accumulates and "
    lines = [lost(report), f"{macs}{parameters:.2f} of the parameters are left", *map(_shape, report.shapes), faster(report)]
    if (stored := report.stored) and stored.sparsity is not None:
        lines.append(
            f"{100 * stored.sparsity:.1f} % of the pruned matrices and {100 * stored.zeros:.1f} % of all weights are zero:"
            f" {_on_disk(stored)}; the engines' speed stays as it is"
        )
    lines.append(places(out))
    return "\n".join(lines)


def quantized(report: Report, out: Path) -> str:
    """The summary of `quantize`: loss, and bytes of a stored scheme or the speed-up of an int8 one."""
    result = report.result
    lines = [lost(report), f"the whole deployment: {smaller(report)}", faster(report)]
    if report.stored:
        lines.append(f"weights: {_on_disk(report.stored)}; floats again once loaded, so the clock stays")
    else:
        left = f"; in float: {', '.join(result.float_layers)}" if result.float_layers else ""
        lines.append(f"int8 kernels of this processor: {result.kernels}{left}")
    for form in report.forms:
        mark = "*" if form.chosen else " "
        lines.append(f"{mark} {form.name}: {form.held_out_quality:.2f} on texts held out, {_times(form.figures)}")
    for name, other in report.baselines.items():
        lines.append(f"  {name.replace('_', ' ')}, uncut: {other.quality.quality:.2f}, {_times(other.figures)}")
    lines.append(places(out))
    return "\n".join(lines)


def left_early(report: Report, out: Path) -> str:
    """The summary of `exits`: where texts left, the loss, and the latencies."""
    result = report.result
    lines = [lost(report), faster(report)]
    if result.left is None:
        lines.insert(0, "no form that texts leave early is both fit and faster on average, so none is shipped; the heads are in the model")
    else:
        left = result.left
        where = ", ".join(f"{count} after layer {layer}" for layer, count in zip(left.layers, left.texts, strict=True))
        lines.insert(1, f"texts left: {where}; {left.mean_layers:.2f} layers on average ({left.rule} at {left.threshold:.3g})")
    for form in report.forms:
        mark = "*" if form.chosen else " "
        figures = form.figures
        mean = "" if figures.latency_mean_ms is None else f"mean {figures.latency_mean_ms:.2f}, "
        lines.append(
            f"{mark} {form.name}: {form.held_out_quality:.2f} on texts held out, {mean}p50 {figures.latency_ms:.2f},"
            f" p95 {figures.latency_p95_ms:.2f}, p99 {figures.latency_p99_ms:.2f} ms"
        )
    lines.append(places(out))
    return "\n".join(lines)


def cascaded(result: Cascaded, out: Path) -> str:
    """The summary of `cascade`: its loss against the second model, how many the first answers, and the latencies."""
    judged = result.judged
    low, high = judged.drop_ci95
    lines = [
        f"{judged.teacher_quality:.2f} -> {judged.quality:.2f}: {judged.drop:.2f} points lost against the second (95 %: {low:.2f} ... {high:.2f})",
        f"the first answers {100 * result.share:.0f} % of the texts ({100 * result.held_out_share:.0f} % of those held out)",
    ]
    for name, figures in (("first", result.first), ("second", result.second), ("both", result.both)):
        steady = "" if figures.steady else " (the machine was not steady)"
        lines.append(
            f"{name}: mean {figures.latency_mean_ms or 0.0:.2f}, p50 {figures.latency_ms:.2f}, p95 {figures.latency_p95_ms:.2f},"
            f" p99 {figures.latency_p99_ms:.2f} ms, {_throughput(figures)} texts/s{steady}"
        )
    return "\n".join([*lines, f"engine: {out / 'engine'}"])


# -- lines of all ------------------------------------------------------------------------------------------------


def lost(report: Report) -> str:
    """The line on quality: before and after, with the most that may have been lost, and the interval of the loss."""
    from penjing.report.verdict import confidence

    judged = report.result.judged
    before = report.teacher.baseline.quality.quality
    low, high = judged.drop_ci95
    drop = f"{abs(judged.drop):.2f} points {'gained' if judged.drop < 0 else 'lost'}"
    sure = "" if (asked := confidence(report)) == CI95 else f" with {asked} confidence"
    return (
        f"{report.metric} {before:.2f} -> {judged.quality:.2f}: {drop}, at most {judged.drop_at_most:.2f}{' lost' if judged.drop < 0 else ''}{sure}"
        f" ({CI95}: {low:.2f} ... {high:.2f})"
    )


def faster(report: Report) -> str:
    """The line on latency against eager PyTorch, engine alone and end to end; no speed-up where the machine was too busy."""
    result = report.result
    after = report.result.figures
    eager = report.teacher.baseline.figures
    times = f"{eager.latency_ms:.2f} -> {after.latency_ms:.2f} ms, p99 {after.latency_p99_ms:.2f}"
    if result.left is not None and eager.latency_mean_ms is not None and after.latency_mean_ms is not None:
        times = f"mean {eager.latency_mean_ms:.2f} -> {after.latency_mean_ms:.2f} ms, p99 {after.latency_p99_ms:.2f}"
    whole = ""
    if after.end_to_end_ms is not None and eager.end_to_end_ms is not None:
        whole = f"; end to end {eager.end_to_end_ms:.2f} -> {after.end_to_end_ms:.2f}"
        if after.steady:
            whole += f", {_ratio(eager.end_to_end_ms / after.end_to_end_ms, '', ' slower')}"
    if result.speedup_vs_eager is None:
        return f"{result.form}: the machine was too busy to say how much faster than eager PyTorch it is ({result.disturbance}; {times}{whole})"
    return f"{result.form}: {_ratio(result.speedup_vs_eager, ' faster', ' slower')} than eager PyTorch ({times}{whole})"


def scores(report: Report) -> str:
    """The line on the calibration of scores by the temperature."""
    temperature = report.scores.temperature
    before = report.scores.before.ece
    after = report.scores.after.ece
    if temperature == 1.0:
        return f"scores: as they come, {100 * before:.1f} points from what they say on average (ECE)"
    return f"scores: at temperature {temperature:.2f}, {100 * before:.1f} -> {100 * after:.1f} points from what they say on average (ECE)"


def places(out: Path) -> str:
    """The line on the written folders."""
    return f"model: {out / 'model'}   engine: {out / 'engine'}   report: {out / 'report.html'}"


def smaller(report: Report) -> str:
    """The line on the deployment's size."""
    before, after = report.teacher.baseline.bytes, report.result.bytes
    return f"{_ratio(before / after, ' smaller', ' larger')} ({before / 1e6:.1f} -> {after / 1e6:.1f} MB)"


def missed(report: Report, out: Path) -> str:
    """The message on a missed budget: the failed gates, and what to do."""
    gates = [gate for gate in report.gates if gate.decides and not gate.passed]
    failed = ", ".join(
        f"{gate.name} {'unknown' if gate.value is None else format(gate.value, '.2f')} (limit {gate.limit:g})" for gate in gates
    )
    busy = any(gate.value is None for gate in gates)
    fix = "ask again on a quiet machine, with another --out" if busy else "ask for less or allow more"
    return f"the budget was not met: {failed}; the best that was found is in {out}, so {fix}"


# -- parts of lines ----------------------------------------------------------------------------------------------


def _ratio(ratio: float, more: str, less: str, digits: int = 1) -> str:
    """How many times more, or less."""
    word, ratio = (more, ratio) if ratio >= 1 else (less, 1 / ratio)
    return f"{ratio:.{digits}f}x{word}"


def _shape(row: ShapeRow) -> str:
    own = ", the data's own lengths" if row.own else ""
    expected = f"{1 / row.macs:.2f}x" if row.macs else "no end"
    ratio = f"{_ratio(row.speedup, ' faster', ' slower', 2)} than uncut" if row.steady else "not steady enough for a speed-up"
    return (
        f"{row.form}, {row.tokens} tokens{own}: {row.teacher_ms:.2f} -> {row.latency_ms:.2f} ms, {ratio}"
        f" where the multiply-accumulates say {expected}"
    )


def _on_disk(stored: Stored) -> str:
    return (
        f"{stored.dense_bytes / 1e6:.1f} -> {stored.packed_bytes / 1e6:.1f} MB stored,"
        f" loads in {stored.dense_load_s:.2f} -> {stored.packed_load_s:.2f} s"
    )


def _times(figures: Figures) -> str:
    return f"{figures.latency_ms:.2f} ms, {_throughput(figures)} texts/s"


def _throughput(figures: Figures) -> str:
    """Texts per second; a dash where it was not measured."""
    return "-" if figures.throughput_per_s is None else f"{figures.throughput_per_s:.0f}"

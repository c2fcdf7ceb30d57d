"""How a report is told in lines, for every command that makes one."""

from pathlib import Path
from typing import Any


def lost(report: dict[str, Any]) -> str:
    """Quality before and after, and what may have been lost."""
    result, before = report["result"], report["teacher"]
    low, high = result["drop_ci95"]
    return (
        f"{report['metric']} {before['quality']:.2f} -> {result['quality']:.2f}: {result['drop']:.2f} points lost, at most {high:.2f}"
        f" (95 %: {low:.2f} ... {high:.2f})"
    )


def faster(report: dict[str, Any]) -> str:
    """The latency against eager PyTorch, engine alone and end to end; no speed-up where the machine was too busy for one."""
    result, eager = report["result"], report["teacher"]
    times = f"{eager['latency_ms']:.2f} -> {result['latency_ms']:.2f} ms, p99 {result['latency_p99_ms']:.2f}"
    whole = ""
    if result["end_to_end_ms"] is not None and eager["end_to_end_ms"] is not None:
        whole = f"; end to end {eager['end_to_end_ms']:.2f} -> {result['end_to_end_ms']:.2f}"
        if result["steady"]:
            whole += f", {eager['end_to_end_ms'] / result['end_to_end_ms']:.1f}x"
    if result["speedup_vs_eager"] is None:
        return f"{result['form']}: the machine was too busy to say how much faster than eager PyTorch it is ({result['disturbance']}; {times}{whole})"
    return f"{result['form']}: {result['speedup_vs_eager']:.1f}x faster than eager PyTorch ({times}{whole})"


def scores(report: dict[str, Any]) -> str:
    """What the temperature of the scores does."""
    found = report["scores"]
    before, after = found["before"]["ece"], found["after"]["ece"]
    if found["temperature"] == 1.0:
        return f"scores: as they come, {100 * before:.1f} points from what they say on average (ECE)"
    return f"scores: at temperature {found['temperature']:.2f}, {100 * before:.1f} -> {100 * after:.1f} points from what they say on average (ECE)"


def places(out: Path) -> str:
    """Where to find what was made."""
    return f"model: {out / 'model'}   engine: {out / 'engine'}   report: {out / 'report.html'}"


def smaller(report: dict[str, Any]) -> str:
    """The deployment's size."""
    before, after = report["teacher"]["bytes"], report["result"]["bytes"]
    ratio = f"{before / after:.1f}x smaller" if before >= after else f"{after / before:.1f}x larger"
    return f"{ratio} ({before / 1e6:.1f} -> {after / 1e6:.1f} MB)"

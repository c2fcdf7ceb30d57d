"""Numeric options: parsed as integers or finite floats within a range, with a one-line error otherwise."""

import math
from typing import Any

import typer

from penjing.errors import InputError

NAMES = {int: "a whole number", float: "a number"}


def number(
    option: str,
    kind: type[int] | type[float],
    least: float | None = None,
    most: float = math.inf,
    help: str | None = None,
    panel: str | None = None,
) -> Any:
    """An option that takes a number of this kind from `least` to `most`; with `least` None, above 0."""

    def parse(given: Any) -> float:
        try:
            value = kind(given)
        except (ValueError, OverflowError):
            value = math.nan
        if (value > 0 if least is None else value >= least) and value <= most and value < math.inf:
            return value
        raise InputError(f"{option}: {str(given)[:80]} is not allowed; give {NAMES[kind]} {allowed(least, most)}")

    return typer.Option(option, parser=parse, metavar=f"<{kind.__name__}>", help=help, rich_help_panel=panel)


def allowed(least: float | None, most: float) -> str:
    """A range in words."""
    if most == math.inf:
        return "above 0" if least is None else f"of at least {least:g}"
    return f"above 0, and at most {most:.10g}" if least is None else f"from {least:g} to {most:.10g}"

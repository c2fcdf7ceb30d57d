"""Command-line options derived from dataclass fields, whose metadata hold their names, help, ranges and panels."""

import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Union

import typer
from typer.core import TyperCommand

from penjing.cli.numeric import number
from penjing.files.options import PANELS, Option, option_of

TITLES = {
    "data": "Data",
    "budget": "Budget",
    "method": "Method",
    "training": "Training",
    "machine": "Machine",
    "output": "Output",
}
Options = dict[str, Any]
"""Values by the names of fields, as a command is given them."""
WIDTH = 80
"""Columns that help is written for, where a terminal is wider too."""


class Panels(TyperCommand):
    """A command whose help shows its options in panels, in 80 columns."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The help: arguments first, then the options of each panel."""
        formatter.width = min(formatter.width, WIDTH)
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{title: [] for title in TITLES.values()}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None) or TITLES["output"]
                title = "Arguments" if parameter.param_type_name == "argument" else panel
                rows.setdefault(title, []).append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=26)


def takes(*kinds: Any, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command: its `options`, a mapping of field names to values, are made of the fields of these dataclasses that tell of
    themselves (`files.options.option`), but for those in `without`."""
    described = {field.name: (kind, field) for kind in kinds for field in fields(kind) if option_of(field) and field.name not in without}

    several = {name for name, (kind, field) in described.items() if _several(typing.get_type_hints(kind)[field.name])}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for parameter in signature(command).parameters.values()
            if parameter.name != "options"
        ]

        @wraps(command)
        def taking(**given: Any) -> None:
            options = {name: given.pop(name) for name in described if name in given}
            options = {name: tuple(value or ()) if name in several else value for name, value in options.items()}
            command(options=options, **given)

        added = [_parameter(kind, field) for kind, field in described.values()]
        taking.__signature__ = signature(command).replace(parameters=_in_order([*own, *added]))  # type: ignore[attr-defined]
        return taking

    return decorate


def _in_order(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Parameters in an order that Python accepts: those without a default first."""
    return sorted(parameters, key=lambda parameter: parameter.default is not Parameter.empty)


def _parameter(kind: Any, field: Any) -> Parameter:
    described = option_of(field)
    assert described is not None
    wanted = typing.get_type_hints(kind)[field.name]
    flag = f"--{(described.name or field.name).replace('_', '-')}"
    default = _default(field)
    annotation: Any = Annotated[_typer_type(wanted, default), _option(flag, wanted, described)]
    if described.required:
        default = Parameter.empty
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=None if _several(wanted) else default, annotation=annotation)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _option(flag: str, wanted: Any, described: Option) -> Any:
    panel = TITLES[described.panel]
    text = _help(described)
    kind = _number(wanted)
    if kind is not None:
        return number(flag, kind, described.least, described.most, text, panel)
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=_metavar(wanted))


def _help(described: Option) -> str:
    allowed = f" {', '.join(dict.fromkeys(described.allowed))}." if described.allowed else ""
    text = re.sub(r"`(\w+)`", lambda match: f"--{match.group(1).replace('_', '-')}", described.help)
    return f"{text}{allowed}"


def _options_of(wanted: Any) -> Sequence[Any]:
    """The types of a union, without None."""
    kinds = typing.get_args(wanted) if typing.get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    return [kind for kind in kinds if kind is not type(None)]


def _number(wanted: Any) -> type[int] | type[float] | None:
    kinds = _options_of(wanted)
    return next((kind for kind in (int, float) if kinds == [kind]), None)


def _several(wanted: Any) -> bool:
    origin = typing.get_origin(_options_of(wanted)[0])
    return origin is not None and isinstance(origin, type) and issubclass(origin, Sequence) and len(_options_of(wanted)) == 1


def _metavar(wanted: Any) -> str | None:
    if _options_of(wanted) == [bool]:
        return None
    return "<path>" if _options_of(wanted) == [Path] else "<text>"


def _typer_type(wanted: Any, default: Any) -> Any:
    """The type of an option for Typer: numbers are parsed by `number`; other objects are text on the command line."""
    kinds = _options_of(wanted)
    if _several(wanted):
        return list[str] | None
    plain = kinds[0] if kinds[0] in (bool, int, float) or kinds == [Path] else str
    return plain if default is not None else plain | None


def by_name(options: Mapping[str, Any], *names: str) -> Options:
    """The options of these names."""
    return {name: options[name] for name in names if name in options}


assert set(TITLES) == set(PANELS)

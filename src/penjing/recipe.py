"""The settings of every step, from Python or from a YAML file."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from penjing.errors import InputError
from penjing.steps.distill import DistillSettings

T = TypeVar("T")


@dataclass(frozen=True)
class PruneSettings:
    """How many training texts importance and the choice of a plan look at."""

    texts: int = 256


@dataclass(frozen=True)
class QuantizeSettings:
    """How many training texts the activations are calibrated on."""

    texts: int = 512


@dataclass(frozen=True)
class Recipe:
    """The steps of a compression; one that is None is left out."""

    prune: PruneSettings | None = field(default_factory=PruneSettings)
    distill: DistillSettings | None = field(default_factory=DistillSettings)
    quantize: QuantizeSettings | None = field(default_factory=QuantizeSettings)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML: `prune`, `distill`, `quantize`, each `false` or a mapping of settings that differ."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--recipe: {path} cannot be read as YAML ({str(error).splitlines()[0]})") from error
    return _merge(Recipe(), content, str(path))


def _merge(settings: T, changes: Any, where: str) -> T:
    """`settings` with `changes`, strictly: an unknown name or a value of another type is an error."""
    if not isinstance(changes, dict):
        raise InputError(f"--recipe: {where} is {changes!r}; give a mapping of settings")
    known = {f.name: getattr(settings, f.name) for f in fields(settings)}  # type: ignore[arg-type]
    result = {}
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"--recipe: {where} has {name!r}; allowed are {', '.join(known)}")
        old = known[name]
        if is_dataclass(old):
            result[name] = None if value is False else _merge(old, {} if value in (None, True) else value, f"{where}: {name}")
        elif not _fits(value, old, name):
            raise InputError(
                f"--recipe: {where}: {name} is {value!r}; give a number like {3 if old is None else old!r}, not below {_least(old, name)}"
            )
        else:
            result[name] = value
    return replace(settings, **result)  # type: ignore[type-var]


def _least(old: Any, name: str) -> int:
    return 1 if isinstance(old, int) and name not in ("seed", "least_steps") else 0


def _fits(value: Any, old: Any, name: str) -> bool:
    """Whether a setting may be `value`, where its default is `old`."""
    if old is None and value is None:
        return True
    kind: Any = int if isinstance(old, int) else int | float
    return isinstance(value, kind) and not isinstance(value, bool) and value >= _least(old, name)

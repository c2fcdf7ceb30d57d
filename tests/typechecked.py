"""The axes of arrays in formulas and trainings, checked at each call: importing this first hooks `penjing.maths` and `penjing.training`.

Functions and methods whose annotations name axes are checked; what a dataclass of settings may hold is for its own messages to say.
jaxtyping's own hook would wrap every function, and the suite would take a tenth longer.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

HOOKED = ("penjing.maths.", "penjing.training.")


def _names_axes(annotation: Any) -> bool:
    """Whether an annotation is an array type with axes, or holds one."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(_names_axes(part) for part in get_args(annotation))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its arguments and result checked by beartype where any annotation names axes; an int is a float."""
    if not any(map(_names_axes, function.__annotations__.values())):
        return function
    return jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))(function)


def check(place: ModuleType | type, module: str) -> None:
    """Have the functions and methods of a module checked, where they stand."""
    for name, value in list(vars(place).items()):
        if isinstance(value, FunctionType) and value.__module__ == module:
            setattr(place, name, checked(value))
        elif isinstance(value, staticmethod | classmethod):
            setattr(place, name, type(value)(checked(value.__func__)))
        elif isinstance(value, type) and value.__module__ == module and place is not value:
            check(value, module)


class Checking(Loader):
    """A loader after which a module is checked."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        check(module, module.__name__)


class Finder(MetaPathFinder):
    """Finds the modules that are checked."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(HOOKED) else None
        if spec and spec.loader:
            spec.loader = Checking(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())

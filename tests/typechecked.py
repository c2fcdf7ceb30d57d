"""The axes of arrays in formulas and trainings, checked at each call: importing this first hooks `penjing.maths` and `penjing.training`.

Functions whose annotations name axes are checked; what a dataclass of settings may hold is for its own messages to say.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

F = TypeVar("F", bound=Callable[..., Any])


def _names_axes(annotation: Any) -> bool:
    """Whether an annotation is an array type with axes, or holds one."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(_names_axes(part) for part in get_args(annotation))


def checked(function: F) -> F:
    """The function, its arguments and result checked by beartype where any annotation names axes; an int is a float."""
    if not any(map(_names_axes, function.__annotations__.values())):
        return function
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


install_import_hook(["penjing.maths", "penjing.training"], "typechecked.checked")

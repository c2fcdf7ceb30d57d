"""References to classes and functions: a name of a table, or "module:name", which other processes and files can hold."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from penjing.errors import InputError, reason_of

SEPARATOR = ":"


def reference_of(kind: Any) -> str:
    """The reference "module:name" of a class or function; an `InputError` where it cannot be imported again."""
    module = kind.__module__
    if module == "__main__":  # another process imports the script by the name of its file
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = getattr(spec, "name", None) or "__main__"
    if "<" in kind.__qualname__ or module == "__main__":
        raise InputError(
            f"{kind.__qualname__}: it is defined in {module}, where no other process can import it; define it at the top of a module of its own"
        )
    return f"{module}{SEPARATOR}{kind.__qualname__}"


def is_reference(name: str) -> bool:
    """Whether a name is a reference "module:name" of valid identifiers."""
    module, separator, attribute = name.partition(SEPARATOR)
    return bool(separator) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def resolved(name: str, table: Mapping[str, str], what: str, *, imports: bool = False) -> Any:
    """The object of a name: the entry of `table`, or the reference "module:name"; an `InputError` that names the option `what`.

    A name may come from a file, so a module that `table` does not hold has to be imported already, unless `imports`.
    """
    reference = table.get(name, name)
    module, separator, attribute = reference.partition(SEPARATOR)
    if not separator:
        raise InputError(f"{what}: {name!r} is none; allowed are {', '.join(table)}, or module:name of one's own")
    if name not in table and not imports and module not in sys.modules:
        raise InputError(f"{what}: {name!r} is somebody's own, in a module that is not imported; import {module!r} first, if you trust it")
    try:
        target: Any = importlib.import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{what}: {reference!r} cannot be imported ({error}); give a module on the path, and a name in it") from error
    return target


def import_named(*names: object) -> None:
    """Import the modules of those names that are references: what a caller names by itself is trusted.

    Raises:
        InputError: a module cannot be imported, whatever it ends with.
    """
    for name in names:
        if isinstance(name, str) and is_reference(name):
            module = name.partition(SEPARATOR)[0]
            try:
                importlib.import_module(module)
            except Exception as error:
                raise InputError(f"{name}: {module} cannot be imported ({reason_of(error)}); give a module on the path") from error

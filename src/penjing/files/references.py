"""References to classes and functions: a name of a table, or "module:name", which other processes and files can hold."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from penjing.errors import InputError

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


def resolved(name: str, table: Mapping[str, str], what: str) -> Any:
    """The object of a name: the entry of `table`, or the reference "module:name"; an `InputError` that names the option `what`."""
    reference = table.get(name, name)
    module, separator, attribute = reference.partition(SEPARATOR)
    if not separator:
        raise InputError(f"{what}: {name!r} is none; allowed are {', '.join(table)}, or module:name of one's own")
    try:
        target: Any = importlib.import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{what}: {reference!r} cannot be imported ({error}); give a module on the path, and a name in it") from error
    return target

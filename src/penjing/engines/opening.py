"""Opening a form: the class of its engine, the forms of an engine, and the loaded model."""

import warnings
from dataclasses import replace
from pathlib import Path

from penjing.engines.clock.machine import cores, safe_weight_bits
from penjing.engines.description import DESCRIPTION, Description
from penjing.engines.engine import Engine
from penjing.engines.form import ENGINES, Form, Rounding, forms_of_engine, rounding_of
from penjing.errors import InputError, shown
from penjing.files.references import reference_of, resolved
from penjing.tasks.names import task_named

EngineKind = str | type[Engine]
"""Which engine: a name in `ENGINES`, the "module:Class" of one's own, or the class itself."""


def engine_class(engine: EngineKind) -> type[Engine]:
    """The class of an engine; an `InputError` where there is none."""
    try:
        kind = resolved(engine, ENGINES, "engine") if isinstance(engine, str) else engine
    except InputError as error:
        if engine in ENGINES and isinstance(error.__cause__, ModuleNotFoundError):
            raise error.__cause__ from None  # a package that is not installed, which the command line names
        raise
    if not (isinstance(kind, type) and issubclass(kind, Engine)):
        raise InputError(f"engine: {engine!r} is no engine; give {', '.join(ENGINES)}, or a subclass of Engine")
    return kind


def engine_name(engine: EngineKind) -> str:
    """The name of an engine as forms hold it: that in `ENGINES`, or "module:Class"."""
    if isinstance(engine, str):
        return engine
    reference = reference_of(engine)
    return next((name for name, known in ENGINES.items() if known == reference), reference)


def forms_for(engine: EngineKind | None, *, int8: bool = True, rounding: Rounding | None = None) -> list[Form]:
    """The forms worth measuring, of one engine or of every one that runs graphs; with `rounding`, those alone that round so."""
    name = None if engine is None else engine_name(engine)
    if name is None or name in ENGINES:
        forms = forms_of_engine(name, int8)
    else:
        forms = [replace(form, engine=name) for form in engine_class(name).forms(int8)]
    if name == "torch":  # it rounds nothing, whatever is asked
        return forms
    found = [form for form in forms if rounding in (None, rounding_of(form))]
    if not found:
        raise InputError(f"export: {name or 'no engine'} has no {rounding} form; dynamic int8 takes onnxruntime, static int8 either engine")
    return found


def warn_of_weights(form: Form, folder: Path) -> None:
    """Warn where the folder's int8 weights have more bits than this processor sums safely."""
    if form.int8 and not form.packed and (folder / DESCRIPTION).is_file():
        _warn_of_weights(folder, Description.read(folder))


def _warn_of_weights(folder: Path, about: Description) -> None:
    if (about.weight_bits or 0) > safe_weight_bits():
        warnings.warn(f"{folder} was made for a processor with VNNI; int8 sums can overflow on this one: export it here", stacklevel=3)


def open_engine(form: Form, folder: str | Path, threads: int | None = None) -> Engine:
    """Load the model of `form` from `folder` on so many threads (None or 0: all cores).

    A file that is not the one of its checksum, or that does not answer with the labels that the folder's description names, is an
    `InputError`. Warns where its int8 weights have more bits than this processor sums safely. A form of an engine that is not in
    `ENGINES` imports the module that it names.
    """
    if threads is not None and (type(threads) is not int or threads < 0):
        raise InputError(f"threads: {shown(threads)} is out of range; give how many, or 0 for all cores")
    folder = Path(folder)
    for path in (folder / name for name in form.files):
        if not path.exists():
            raise InputError(f"engine: {path} is missing; export the model again")
    about = Description.read(folder) if (folder / DESCRIPTION).is_file() else None
    if about is not None:
        about.check_files(folder, form.files)
        if form.int8 and not form.packed:
            _warn_of_weights(folder, about)
    model = _graph(form, folder) if form.packed else folder / form.file
    kind = engine_class(form.engine)
    if isinstance(model, bytes) and not kind.graphs:
        raise InputError(f"engine: the form {shown(form.name)} is packed, and {form.engine} runs no graph; export the model again")
    engine = kind.open(model, form, threads or cores())
    if about is not None and engine.ports:
        _check_answers(engine.ports, about, folder / form.file)
    return engine


def _check_answers(ports: tuple[str | int | None, ...], about: Description, path: Path) -> None:
    """An `InputError` where logits of these sizes are none of the described task and labels."""
    sizes = 3 if task_named(about.task).head.per_token else 2
    if len(ports) != sizes or ports[-1] != len(about.labels):
        given = " x ".join("any" if size is None else str(size) for size in ports)
        raise InputError(
            f"engine: {path} answers with {given} numbers, and {DESCRIPTION} names the {len(about.labels)} labels of {about.task}"
            f" ({shown(list(about.labels))}); export the model again"
        )


def _graph(form: Form, folder: Path) -> bytes:
    """The ONNX model of a packed form."""
    try:
        from penjing.engines.onnx.packed import graph_bytes
    except ModuleNotFoundError as error:
        raise InputError(
            f"engine: a packed model takes the package {error.name}, which is missing; pip install 'penjing[packed]'"
        ) from error
    return graph_bytes(folder, form)

"""`Description`: what an engine folder says of itself, in engine.json; and the checksums of its files."""

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penjing.engines.form import ENGINES, GRAPH_ENGINES, TOKENIZER, Form
from penjing.errors import InputError, reason_of, shown
from penjing.files.references import is_reference
from penjing.files.whole import Json, write_json

DESCRIPTION = "engine.json"
DESCRIPTION_FORMAT = 1


@dataclass(frozen=True)
class Description:
    """Everything that serving needs to know of an engine folder beside its files.

    `forms`: the chosen one first. `max_length`: tokens of the longest text. `temperature`: that its scores are softened by.
    `weight_bits`: bits of the int8 weights; None where the folder does not say. `metric`, `positive`: that it was judged by.
    `crc32`: a checksum by file, empty in folders of before. `penjing`: the version that wrote it.
    """

    task: str
    labels: tuple[str, ...]
    max_length: int
    forms: tuple[Form, ...]
    metric: str = ""
    positive: str = ""
    temperature: float = 1.0
    weight_bits: int | None = None
    crc32: Mapping[str, int] = field(default_factory=dict)
    penjing: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read engine.json; every field is checked, and one that is wrong or unknown, or a later format, is an `InputError`."""
        path = folder / DESCRIPTION
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError as error:
            raise InputError(f"engine: {folder} has no {DESCRIPTION}; give a folder that penjing compress wrote") from error
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"engine: {path} is damaged ({reason_of(error)}); export the model again") from error

    def write(self, folder: Path) -> None:
        """Write engine.json."""
        write_json(folder / DESCRIPTION, self.to_dict())

    @classmethod
    def from_dict(cls, about: object, path: Path = Path(DESCRIPTION)) -> "Description":
        """From a JSON object, of the file `path`; a `ValueError` or `TypeError` where it is none, an `InputError` where its format is later."""
        if not isinstance(about, dict):
            raise ValueError("it is no object")
        fields = dict(about)
        version = fields.pop("format", 1)
        if version != DESCRIPTION_FORMAT:
            raise InputError(f"engine: {path} has format {shown(version)}, and this code reads {DESCRIPTION_FORMAT}; take a newer Penjing")
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown:
            raise ValueError(f"it has the field {shown(unknown[0])}, which is none; known are {', '.join(_FIELDS)}")
        for name, (fits, allowed) in _FIELDS.items():
            if name in fields and not fits(fields[name]):
                raise ValueError(f"{name} is {shown(fields[name])}; it has to be {allowed}")
        missing = [name for name in _NEEDED if name not in fields]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        fields["labels"] = tuple(fields["labels"])
        fields["forms"] = tuple(form_from(each) for each in fields["forms"])
        fields["temperature"] = float(fields.get("temperature", 1.0))
        return cls(**fields)

    def to_dict(self) -> Json:
        """A JSON object, with its format number."""
        about: Json = {
            "format": DESCRIPTION_FORMAT, "penjing": self.penjing, "task": self.task, "metric": self.metric, "positive": self.positive,
            "labels": list(self.labels), "temperature": self.temperature, "max_length": self.max_length, "weight_bits": self.weight_bits,
            "forms": [form.to_dict() for form in self.forms], "crc32": dict(self.crc32),
        }  # fmt: skip
        if self.weight_bits is None:
            del about["weight_bits"]
        return about

    def forms_on(self, engine: str | None) -> list[Form]:
        """Its forms that run on this engine; all of them for None."""
        return [form for form in self.forms if engine in (None, form.engine)]

    @property
    def engines(self) -> list[str]:
        """The engines of its forms, in the alphabet's order."""
        return sorted({form.engine for form in self.forms})

    def check_files(self, folder: Path, names: Sequence[str]) -> None:
        """An `InputError` where one of these files of the folder is not the one whose checksum is here."""
        for name in names:
            if name in self.crc32 and _crc32(folder / name) != self.crc32[name]:
                raise InputError(
                    f"engine: {folder / name} is damaged, or of another export: its checksum is not that in {DESCRIPTION}; export again"
                )


def form_from(fields: object) -> Form:
    """The form of a JSON object; a `ValueError` or `TypeError` where a field is wrong, or a file is named outside of its folder."""
    if not isinstance(fields, dict):
        raise TypeError(f"a form is {shown(fields)}; it has to be an object")
    form = Form(**(fields | {"more": tuple(fields.get("more", ()))}))
    for name, fits in _FORM_FIELDS.items():
        if not fits(getattr(form, name)):
            raise ValueError(f"the {name} of a form is {shown(getattr(form, name))}")
    if not _is_text(form.engine) or not (form.engine in ENGINES or is_reference(form.engine)):
        raise ValueError(f"the form {shown(form.name)} runs on {shown(form.engine)}; known are {', '.join(ENGINES)}")
    if form.packed and form.engine in ENGINES and form.engine not in GRAPH_ENGINES:
        raise ValueError(f"the form {shown(form.name)} is packed, and {form.engine} runs no graph")
    for file in (form.file, *form.more):
        if not _is_text(file) or not re.fullmatch(r"[\w-][\w.-]{0,199}", file, re.ASCII):
            raise ValueError(f"the form {shown(form.name)} is in {shown(file)}, and files are named in the folder itself")
    return form


def checksums(folder: Path, forms: Sequence[Form]) -> dict[str, int]:
    """The CRC-32 of the graphs of these forms and of the tokenizer, by name; weights that are no graph have one in their own file."""
    names = {file for form in forms if not form.packed and (form.more or form.file.endswith(".onnx")) for file in form.files} | {TOKENIZER}
    names |= {form.file for form in forms if is_reference(form.engine) and not form.packed and (folder / form.file).is_file()}
    return {name: _crc32(folder / name) for name in sorted(names)}


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


# -- the fields ------------------------------------------------------------------------------------------------


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_bucket(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_labels(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_temperature(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-6 <= value <= 1e6


def _are_checksums(value: object) -> bool:
    return isinstance(value, dict) and all(type(each) is int for each in value.values())


def _are_forms(value: object) -> bool:
    return isinstance(value, list) and bool(value)


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "task": (_is_text, "the name of a task"),
    "labels": (_are_labels, "a list of different names"),
    "max_length": (_is_count, "a number of tokens"),
    "temperature": (_is_temperature, "a number above 0, from 1e-6 to 1e6"),
    "weight_bits": (_is_count, "a number of bits"),
    "metric": (_is_text, "a name"),
    "positive": (_is_text, "a label"),
    "crc32": (_are_checksums, "a checksum by file"),
    "forms": (_are_forms, "a list of forms"),
    "penjing": (_is_text, "a version"),
}
_NEEDED = ("task", "labels", "max_length", "forms")
_FORM_FIELDS: dict[str, Callable[[object], bool]] = {
    "name": _is_text,
    "bfloat16": _is_flag,
    "packed": _is_flag,
    "batch": _is_count,
    "bucket": _is_bucket,
}

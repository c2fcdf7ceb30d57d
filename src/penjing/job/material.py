"""Sources of distillation material beside the training data: models, plain texts, further tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penjing.errors import InputError
from penjing.files.options import option, refuse_idle
from penjing.files.references import import_named
from penjing.files.run import Tell, fingerprint, writable
from penjing.files.whole import Json
from penjing.model.checkpoint import locate
from penjing.steps.teach.teaching import Material
from penjing.tasks.data import Data
from penjing.tasks.sources import load_data, load_plain, load_unlabelled
from penjing.text.reading import Reading

GENERAL_TEXTS = 20_000
"""Lines of plain text that are drawn by default."""
WITH = "with"


@dataclass(frozen=True)
class Sources:
    """Options that name the material of distillation: models, files and folders."""

    student: str = option("", "A model to start from instead, of the same vocabulary.", panel="data")
    teacher: Sequence[str] = option(tuple, "A further teacher; their answers are averaged.", panel="data")
    companions: Sequence[str] = option(
        tuple, "A further task that shares the encoder, as TASK,MODEL,TRAIN,EVAL; its model goes to also/.", name=WITH, panel="data"
    )
    general: Path | None = option(None, "Plain text, a text a line (also .gz), to learn states on first.", panel="data")
    general_texts: int | None = option(None, f"Lines of it that are drawn; {GENERAL_TEXTS:,}.", least=1, panel="data")
    unlabelled: str = option("", "Further data, whose labels are not read: the teacher answers it.", panel="data")
    masked_lm: str = option("", "With `augment` masked-lm: the language model, of the same vocabulary.", panel="data")
    cache: Path | None = option(None, "Folder that keeps the teacher's outputs for further runs.", panel="output")

    def __post_init__(self) -> None:
        for name in ("general", "cache"):
            if given := getattr(self, name):  # a string too, in Python
                object.__setattr__(self, name, Path(given))
        refuse_idle(("general_texts", self.general_texts and not self.general, "give `general`"))

    def read(self, data: Data, seed: int, tell: Tell) -> tuple[Material, Json]:
        """Read the material; returns it, and its fingerprints as JSON, which a resumed run must repeat."""
        if self.cache is not None:
            writable(self.cache, "cache")
        student, masked = (locate(model) if model else None for model in (self.student, self.masked_lm))
        teachers = [locate(model) for model in self.teacher]
        general = load_plain(data, self.general, self.general_texts or GENERAL_TEXTS, seed) if self.general else None
        unlabelled = load_unlabelled(data, self.unlabelled, tell) if self.unlabelled else None
        companions = [self._companion(text, data, tell) for text in self.companions]
        models: dict[str, list[Path]] = {
            "student": [student] if student else [],
            "masked_lm": [masked] if masked else [],
            "teachers": teachers,
            "companions": [path for path, _ in companions],
        }
        asked: Json = {name: [fingerprint(path) for path in paths] for name, paths in models.items() if paths}
        asked |= {name: texts.fingerprint() for name, texts in (("general", general), ("unlabelled", unlabelled)) if texts}
        asked |= {
            f"companion {i}": [more.task.name, more.train.fingerprint(), more.eval.fingerprint()] for i, (_, more) in enumerate(companions)
        }
        return Material(student, teachers, general, unlabelled, masked, companions, self.cache), asked

    def _companion(self, text: str, data: Data, tell: Tell) -> tuple[Path, Data]:
        parts = text.split(",")
        if len(parts) != 4:
            raise InputError(f"{WITH}: {text!r} is none; give TASK,MODEL,TRAIN,EVAL, as pair,my-matcher,pairs.jsonl,pairs-dev.jsonl")
        task, model, train, dev = parts
        import_named(task)
        reading = Reading(max_length=data.max_length, encoding=data.reading.encoding, delimiter=data.reading.delimiter)
        return locate(model), load_data(model, task, train, dev, reading, tell)

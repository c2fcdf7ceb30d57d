"""A teacher and its data, and a compression that takes seconds: what models take is read off their files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import rows_of
from conftest import tiny_teacher

import penjing
from penjing.files.records import to_json
from penjing.report.record import Report


@dataclass(frozen=True)
class Shop:
    """The folder that a compression is done in; `out` is what it writes."""

    folder: Path

    @property
    def out(self) -> Path:
        """Where the result is."""
        return self.folder / "out"

    def compress(self, task: Any = "classification", teacher: Path | None = None, **options: Any) -> Report:
        """`penjing.compress` of a tiny teacher."""
        name = task if isinstance(task, str) else "classification"
        model = teacher or tiny_teacher(self.folder / "teacher", name)
        given = {"train": rows_of(name, 60, 0), "eval": rows_of(name, 24, 1), "threads": 1, "wait": 0} | options
        report = penjing.compress(model, self.out, task=task, **given)
        told = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        assert told == to_json(report) and (self.out / "report.html").is_file()
        return report

    def answers(self, texts: list[Any]) -> list[dict[str, Any]]:
        """Those of the exported engine."""
        return penjing.load(self.out, threads=1)(texts)

"""Options of reading data: columns, encoding, delimiter, labels, metric."""

import json
from dataclasses import dataclass
from typing import Any

from penjing.errors import InputError
from penjing.files.options import option

TAB = ("tab", "\\t")
"""Other ways to write a tab."""


@dataclass(frozen=True)
class Reading:
    """Options of reading data; a wrong one is an `InputError` at once.

    Args:
        text_columns, label_column: "" for those of the usual names. metric: "" for the convention. positive: the label that F1 is of.
        max_length: tokens of a text at most; 0 for the model's positions.
        encoding: of text files; "" is UTF-8. delimiter: between two fields of CSV and TSV; "" goes by the file's name.
        header: the columns of CSV and TSV files that do not name them, with commas between; "" where the first line does.
        label_map: labels in the data by the model's names for them, as a=negative,b=positive, or as a JSON object.
    """

    max_length: int = option(0, "Tokens of a text at most; longer ones are cut. 0: the model's positions.", panel="data")
    text_columns: str = option("", "Column, or two with a comma between, that hold the text.", panel="data")
    encoding: str = option("", "Of text files that are not UTF-8, as gbk, cp1252 or utf-16.", panel="data")
    delimiter: str = option("", "What stands between two fields of CSV and TSV, as ';' or tab.", panel="data")
    header: str = option("", "Columns of CSV and TSV files whose first line does not name them, as text,label.", panel="data")
    label_column: str = option("", "Column that holds the label.", panel="data")
    label_map: str = option("", "What the model calls labels of the data, as a=negative,b=positive.", panel="data")
    metric: str = option(
        "",
        "accuracy, macro-f1, f1 (of one label) or mcc; of tags entity-f1, entity-f1-strict or word-accuracy. Without it accuracy, and"
        " entity-f1 where the tags mark spans.",
        panel="data",
    )
    positive: str = option("", "With `metric` f1: the label that it is of; without it, the one that names tell.", panel="data")

    def __post_init__(self) -> None:
        try:
            "a".encode(self.encoding or "utf-8")
        except (LookupError, ValueError) as error:
            raise InputError(f"encoding: {self.encoding!r} is none; give one that Python knows, as utf-8, utf-16, gbk or cp1252") from error
        mark = self.separator
        if mark and (len(mark) != 1 or mark in '"\r\n\0'):
            raise InputError(f"delimiter: {self.delimiter!r} is not allowed; give one character, as ';', or tab")
        names = [name for name in self.names if name]
        if self.header and (not names or len(set(names)) < len(names)):
            raise InputError(f"header: {self.header!r} names {'a column twice' if names else 'no column'}; give names, as text,label")
        self.labels()

    @property
    def separator(self) -> str:
        """The character between two fields, "" where it goes by the file's name."""
        return "\t" if self.delimiter in TAB else self.delimiter

    @property
    def names(self) -> list[str]:
        """The columns of a file that does not name them; a column without a name is left out."""
        return [name.strip() for name in self.header.split(",")] if self.header else []

    @property
    def columns(self) -> list[str]:
        """The columns that hold the text; empty for those of the usual names."""
        return [column.strip() for column in self.text_columns.split(",") if column.strip()]

    def labels(self) -> dict[str, str]:
        """The model's name of each label that the data call otherwise."""
        pairs = self._pairs()
        labels = {name: meant for name, meant in pairs if name and meant}
        if len(labels) < len(pairs):
            raise InputError(f"label_map: {self.label_map!r} names a label twice, or none; give each once, as a=negative,b=positive")
        return labels

    def _pairs(self) -> list[tuple[str, str]]:
        text = self.label_map.strip()
        if text.startswith("{"):
            try:
                pairs: list[tuple[Any, Any]] = json.loads(text, object_pairs_hook=list)
                return [(name.strip(), meant.strip()) for name, meant in pairs]
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(f'label_map: {text!r} is no JSON object of names; give it as {{"a": "negative"}}') from error
        parts = [part.split("=") for part in text.split(",")] if text else []
        if any(len(part) != 2 for part in parts):
            raise InputError(
                f"label_map: {text!r} has no one '=' in each part; give the data's and the model's names, as a=negative,b=positive"
            )
        return [(name.strip(), meant.strip()) for name, meant in parts]

"""Export of a product into an engine folder: the files of its forms, the tokenizer, and the description engine.json."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from penjing import __version__
from penjing.engines.clock.machine import safe_weight_bits
from penjing.engines.description import Description, checksums
from penjing.engines.form import TOKENIZER, Form
from penjing.steps.product import Product
from penjing.tasks.data import Data
from penjing.tasks.names import task_reference


def describe(folder: Path, data: Data, forms: Sequence[Form], temperature: float = 1.0) -> None:
    """Write engine.json, the description of an engine folder whose other files are there. temperature: of the served scores."""
    task = data.task
    Description(
        task_reference(task), tuple(task.labels), data.max_length, tuple(forms), task.metric_reference(), task.positive, temperature,
        safe_weight_bits(), checksums(folder, forms), __version__,
    ).write(folder)  # fmt: skip


def export_engine(product: Product, folder: Path, data: Data, tokenizer: Path) -> int:
    """Write the files of all forms, the tokenizer, and the description; returns the bytes of the portable weights."""
    size = product.export(folder, data)
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    describe(folder, data, product.forms)
    return size


def export_in_float(product: Product, exported: Path, folder: Path, data: Data, tokenizer: Path) -> Sequence[Form]:
    """Export the float32 forms used where no int8 form may be shipped, into `folder` beside a copy of `exported`.

    Returns:
        their forms; empty where there are none.
    """
    stand_in = product.in_float()
    if stand_in is None:
        return []
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    export_engine(stand_in, folder, data, tokenizer)
    return stand_in.forms

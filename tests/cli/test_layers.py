"""A blueprint in the terminal."""

import io
import re

import pytest
from reports import RESULT, TEACHER
from rich.console import Console

from penjing.blueprint import Blueprint, Layer
from penjing.cli.layers import inspect_text


@pytest.mark.parametrize("blueprint", [TEACHER, RESULT, RESULT.with_layers(()), TEACHER.with_layers((Layer(64, 16384),) * 24)])
def test_inspect_fits_the_terminal(blueprint: Blueprint) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(inspect_text(blueprint))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    assert sum(bool(re.match(r"\s*\d+ ", line)) for line in lines) == len(blueprint.layers)
    assert {"parameters", "MACs, 32 tokens", "MACs, 128 tokens"} <= {re.split(r"\s{2,}", line.strip())[0] for line in lines}
